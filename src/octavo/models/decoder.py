"""A decoder of the Llama family over dense or packed weights: many tokens at a time, or one.

Weights are frozen and shared; what a sequence leaves behind is in a `StaticCache`. Reading a prompt (`logits`,
`prefill`) is ruled by large products, making a token (octavo.models.decoder_step) by reading every weight once, so the
two are separate paths over the same layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from octavo.base.errors import ModelError
from octavo.layers.attention import Mask, attend, causal_mask
from octavo.layers.embedding import Embedding
from octavo.layers.linear import Linear, nbytes
from octavo.layers.normalization import rms_norm
from octavo.layers.rotary import rotate
from octavo.models.decoder_config import DecoderConfig
from octavo.models.static_cache import StaticCache


@dataclass(frozen=True, eq=False)
class Layer:
    """The weights of one block.

    Attributes:
        attention_norm, inner_norm: of the residual stream, before attention and before the feed-forward layers.
        query_norm, key_norm: of each head; None for none.
        attention: queries, keys and values on top of each other.
        output: from the heads' channels.
        inner: gate and up on top of each other.
        down: from the inner width.
        window: tokens that attention sees; None for all.
    """

    attention_norm: Float[Tensor, " hidden"]
    inner_norm: Float[Tensor, " hidden"]
    query_norm: Float[Tensor, " width"] | None
    key_norm: Float[Tensor, " width"] | None
    attention: Linear
    output: Linear
    inner: Linear
    down: Linear
    window: int | None


@dataclass(frozen=True, eq=False)
class Decoder:
    """A language model.

    Attributes:
        config: its sizes.
        embedding: the vectors of tokens.
        layers: the blocks.
        norm: of the residual stream, before the head.
        head: from the residual stream to logits.
        dtype: what is computed in.
        prompt_dtype: what products and attention over many tokens are computed in, and keys and values are kept in.
        device: where.
    """

    config: DecoderConfig
    embedding: Embedding
    layers: tuple[Layer, ...]
    norm: Float[Tensor, " hidden"]
    head: Linear
    dtype: torch.dtype
    prompt_dtype: torch.dtype
    device: torch.device

    def cache(self, slots: int, context: int) -> StaticCache:
        """Room for the keys and values of `slots` sequences of `context` tokens.

        Raises:
            ModelError: the model is not made for so many tokens.
        """
        if not 1 <= context <= self.config.context or slots < 1:
            raise ModelError(
                f"{slots} sequences of {context} tokens do not suit a model with a context of {self.config.context}",
                "ask for fewer tokens",
            )
        return StaticCache(self.config, slots, context, self.prompt_dtype, self.device)

    @torch.inference_mode()
    def logits(
        self,
        tokens: Int[Tensor, "batch length"],
        mask: Bool[Tensor, "batch length seen"] | None = None,
        cache: StaticCache | None = None,
    ) -> Float[Tensor, "batch length vocabulary"]:
        """Logits at every token of sequences of one length.

        Args:
            tokens: that follow those in the cache.
            mask: True where a token sees another, of the cache's and then the new ones; default: all up to itself, and
                within a layer's window.
            cache: of as many slots; it is read and filled. None for none.

        Raises:
            ModelError: the tokens do not fit the cache or the vocabulary.
        """
        cache = self.cache(*tokens.shape) if cache is None else cache
        if len(tokens) != cache.slots:
            raise ModelError(f"{len(tokens)} sequences do not fit a cache of {cache.slots}", "make a cache of as many")
        pieces = [_Piece(slot, cache.lengths[slot], tokens.shape[1]) for slot in range(cache.slots)]
        seen = None if mask is None else [*mask]
        hidden = self._read(tokens.flatten(), pieces, cache, seen)
        return self.head(rms_norm(hidden, self.norm, self.config.epsilon)).view(*tokens.shape, -1)

    @torch.inference_mode()
    def prefill(
        self, tokens: Int[Tensor, " length"], cache: StaticCache, slot: int = 0
    ) -> Float[Tensor, " vocabulary"]:
        """Read some tokens of a prompt into a slot of the cache, and return the logits after the last.

        Raises:
            ModelError: the tokens do not fit the cache or the vocabulary.
        """
        hidden = self._read(tokens, [_Piece(slot, cache.lengths[slot], len(tokens))], cache)[-1:]
        return self.head(rms_norm(hidden, self.norm, self.config.epsilon))[0]

    @cached_property
    def joins(self) -> bool:
        """Whether products of many tokens with all layers' weights are those of each token alone, and fast."""
        return all(
            linear.joins for layer in self.layers for linear in (layer.attention, layer.output, layer.inner, layer.down)
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        tied = len(self.head.pieces) == 1 and self.head.pieces[0] is self.embedding.weight
        return self.step_nbytes + (0 if tied else nbytes(self.embedding.weight))

    @property
    def step_nbytes(self) -> int:
        """Bytes of weights that are read to make one token."""
        found = self.norm.nbytes + self.head.nbytes
        for layer in self.layers:
            linear = layer.attention, layer.output, layer.inner, layer.down
            norms = layer.attention_norm, layer.inner_norm, layer.query_norm, layer.key_norm
            found += sum(each.nbytes for each in linear) + sum(norm.nbytes for norm in norms if norm is not None)
        return found

    def _read(
        self,
        tokens: Int[Tensor, " length"],
        pieces: Sequence[_Piece],
        cache: StaticCache,
        masks: Sequence[Bool[Tensor, "own seen"]] | None = None,
    ) -> Float[Tensor, "length hidden"]:
        """The residual stream after the last block of pieces that follow each other; the cache is read and filled.

        Args:
            tokens: of all pieces.
            pieces: where they belong.
            cache: for keys and values.
            masks: of each piece; None for what has come, and within a layer's window.
        """
        check_tokens(tokens, self.config.vocabulary)
        for piece in pieces:
            if not 1 <= piece.length <= cache.context - piece.start:
                raise ModelError(
                    f"{piece.length} tokens after {piece.start} do not fit a context of {cache.context}",
                    "give a shorter text",
                )
        seen: dict[int | None, Sequence[Mask]] = {
            window: [causal_mask(piece.length, piece.stop, window, self.device) for piece in pieces]
            if masks is None
            else masks
            for window in {layer.window for layer in self.layers}
        }
        places = torch.cat([torch.arange(piece.start, piece.stop, device=self.device) for piece in pieces])
        turns = tuple(table[places].to(self.prompt_dtype) for table in (cache.cosine, cache.sine))
        hidden = self.embedding(tokens.to(self.device), self.dtype)
        for number, layer in enumerate(self.layers):
            normed = rms_norm(hidden, layer.attention_norm, self.config.epsilon).to(self.prompt_dtype)
            queries, keys, values = self._heads(layer, layer.attention(normed), turns)
            attended, begin = [], 0
            for piece, mask in zip(pieces, seen[layer.window], strict=True):
                own = slice(begin, begin + piece.length)
                attended.append(_attend(queries[:, own], keys[:, own], values[:, own], cache, number, piece, mask))
                begin += piece.length
            hidden = hidden + layer.output(torch.cat(attended))
            normed = rms_norm(hidden, layer.inner_norm, self.config.epsilon).to(self.prompt_dtype)
            gate, up = layer.inner(normed).chunk(2, dim=-1)
            hidden = hidden + layer.down(F.silu(gate) * up)
        for piece in pieces:
            cache.lengths[piece.slot] = piece.stop
        return hidden

    def _heads(
        self, layer: Layer, found: Float[Tensor, "length channels"], turns: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [heads, length, width], normalized and turned."""
        config = self.config
        heads = found.view(len(found), -1, config.rotary.width).transpose(0, 1)
        queries, keys, values = heads.split([config.heads, config.shared_heads, config.shared_heads])
        if layer.query_norm is not None and layer.key_norm is not None:
            queries = rms_norm(queries, layer.query_norm, config.epsilon).to(self.prompt_dtype)
            keys = rms_norm(keys, layer.key_norm, config.epsilon).to(self.prompt_dtype)
        cosine, sine = turns
        return rotate(queries, cosine, sine), rotate(keys, cosine, sine), values


@dataclass(frozen=True)
class _Piece:
    """Tokens of one sequence: the slot that they go to, their place in it, and how many they are."""

    slot: int
    start: int
    length: int

    @property
    def stop(self) -> int:
        return self.start + self.length


def _attend(
    queries: Float[Tensor, "heads length width"],
    keys: Float[Tensor, "shared length width"],
    values: Float[Tensor, "shared length width"],
    cache: StaticCache,
    layer: int,
    piece: _Piece,
    mask: Mask,
) -> Float[Tensor, "length channels"]:
    """Attention of one piece, to what its slot has and to itself; its keys and values go into the slot."""
    cache.write(layer, piece.slot, piece.start, keys, values)
    if piece.start:
        keys, values = (each.to(queries.dtype) for each in cache.read(layer, piece.slot, piece.stop))
    return attend(queries[None], keys[None], values[None], mask)[0]


def check_tokens(tokens: Int[Tensor, "*batch"] | Sequence[int], vocabulary: int) -> None:
    """ModelError if a token is none of the vocabulary."""
    if isinstance(tokens, Tensor):
        tokens = [int(tokens.min()), int(tokens.max())] if tokens.numel() else ()
    if tokens and not 0 <= min(tokens) <= max(tokens) < vocabulary:
        raise ModelError(f"a token lies outside 0 to {vocabulary - 1}", "use the tokenizer that belongs to the model")
