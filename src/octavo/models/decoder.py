"""A decoder of the Llama family over dense or packed weights: many tokens at a time, or one.

Weights are frozen and shared; what a sequence leaves behind is in a `StaticCache`. Reading a prompt (`logits`,
`prefill`) is ruled by large products, making a token (octavo.models.decoder_step) by reading every weight once, so the
two are separate paths over the same layers.
"""

from __future__ import annotations

from dataclasses import dataclass

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
        if len({*cache.lengths}) != 1:
            raise ModelError("the cache's sequences differ in length", "read them one at a time, with prefill")
        hidden = self._read(tokens, cache, range(cache.slots), mask)
        return self.head(rms_norm(hidden, self.norm, self.config.epsilon))

    @torch.inference_mode()
    def prefill(
        self, tokens: Int[Tensor, " length"], cache: StaticCache, slot: int = 0
    ) -> Float[Tensor, " vocabulary"]:
        """Read some tokens of a prompt into a slot of the cache, and return the logits after the last.

        Raises:
            ModelError: the tokens do not fit the cache or the vocabulary.
        """
        hidden = self._read(tokens[None], cache, range(slot, slot + 1), None)[0, -1:]
        return self.head(rms_norm(hidden, self.norm, self.config.epsilon))[0]

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
        self, tokens: Tensor, cache: StaticCache, slots: range, mask: Tensor | None
    ) -> Float[Tensor, "batch length hidden"]:
        """The residual stream after the last block; keys and values go into the slots, whose lengths are alike."""
        check_tokens(tokens, self.config.vocabulary)
        start, length = cache.lengths[slots[0]], tokens.shape[1]
        if not 1 <= length <= cache.context - start:
            raise ModelError(
                f"{length} tokens after {start} do not fit a context of {cache.context}", "give a shorter text"
            )
        stop = start + length
        masks: dict[int | None, Mask] = {
            window: causal_mask(length, stop, window, self.device) if mask is None else mask
            for window in {layer.window for layer in self.layers}
        }
        hidden = self.embedding(tokens.to(self.device), self.dtype)
        for number, layer in enumerate(self.layers):
            hidden = hidden + self._attention(number, layer, hidden, cache, slots, masks[layer.window])
            normed = rms_norm(hidden, layer.inner_norm, self.config.epsilon).to(self.prompt_dtype)
            gate, up = layer.inner(normed).chunk(2, dim=-1)
            hidden = hidden + layer.down(F.silu(gate) * up)
        for slot in slots:
            cache.lengths[slot] = stop
        return hidden

    def _attention(
        self, number: int, layer: Layer, hidden: Tensor, cache: StaticCache, slots: range, mask: Mask
    ) -> Tensor:
        config = self.config
        batch, length, _ = hidden.shape
        start = cache.lengths[slots[0]]
        found = layer.attention(rms_norm(hidden, layer.attention_norm, config.epsilon).to(self.prompt_dtype))
        heads = found.view(batch, length, -1, config.rotary.width).transpose(1, 2)
        queries, keys, values = heads.split([config.heads, config.shared_heads, config.shared_heads], dim=1)
        if layer.query_norm is not None and layer.key_norm is not None:
            queries = rms_norm(queries, layer.query_norm, config.epsilon).to(self.prompt_dtype)
            keys = rms_norm(keys, layer.key_norm, config.epsilon).to(self.prompt_dtype)
        turn = (table[start : start + length].to(self.prompt_dtype) for table in (cache.cosine, cache.sine))
        cosine, sine = turn
        queries, keys = rotate(queries, cosine, sine), rotate(keys, cosine, sine)
        for row, slot in enumerate(slots):
            cache.write(number, slot, start, keys[row], values[row])
        if start:
            read = [cache.read(number, slot, start + length) for slot in slots]
            keys, values = (torch.stack(both).to(self.prompt_dtype) for both in zip(*read, strict=True))
        return layer.output(attend(queries, keys, values, mask))


def check_tokens(tokens: Int[Tensor, "*batch"], vocabulary: int) -> None:
    """ModelError if a token is none of the vocabulary."""
    if tokens.numel() and not (int(tokens.min()) >= 0 and int(tokens.max()) < vocabulary):
        raise ModelError(f"a token lies outside 0 to {vocabulary - 1}", "use the tokenizer that belongs to the model")
