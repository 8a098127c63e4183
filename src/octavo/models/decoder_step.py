"""Reading tokens of several sequences at once: every weight is read once, and nothing is allocated but logits' views.

On the CPU in float32 the work between products is a handful of prepared C++ operations a layer
(octavo.kernels.decoding), whose rows do not know each other. Rows are tokens: those that sequences got last, and, where
products do not depend on how many rows there are (`Decoder.joins`), those of prompts. What does not fit goes through
the prompt's path, one sequence after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor

from octavo.base.errors import ModelError
from octavo.kernels import decoding as kernels
from octavo.kernels.reference.decoding import likeliest
from octavo.models.decoder import Decoder, check_tokens
from octavo.models.decoder_config import DecoderConfig
from octavo.models.static_cache import StaticCache

CHUNK = 256
"""Tokens of prompts that are read at once, as rows of a step."""

WHOLE = 512
"""Tokens of a prompt that are read at once by itself: weights are made dense once for all of them."""

NEAR = 512
"""Tokens up to which attention is computed row by row; the more, the better large products of many rows do."""


@dataclass(frozen=True, eq=False)
class _Buffers:
    """What goes from one operation to the next, a row a token; `last` and `logits` have one a sequence."""

    residual: Tensor
    normed: Tensor
    found: Tensor
    attended: Tensor
    inner: Tensor
    gated: Tensor
    delta: Tensor
    last: Tensor
    logits: Tensor

    @classmethod
    def of(cls, config: DecoderConfig, rows: int, sequences: int) -> _Buffers:
        channels, shared = config.heads * config.rotary.width, config.shared_heads * config.rotary.width
        widths = config.hidden, config.hidden, channels + 2 * shared, channels
        widths = *widths, 2 * config.inner, config.inner, config.hidden
        each = (torch.zeros(sequences, width) for width in (config.hidden, config.vocabulary))
        return cls(*(torch.zeros(rows, width) for width in widths), *each)


class DecodingStep:
    """Makes tokens of the sequences in a cache.

    Args:
        decoder: the model.
        cache: of the model; its slots' lengths grow by one with each token.

    Attributes:
        chunk: tokens of prompts that are best read at once.
        likeliest: of each sequence of the last call the likeliest next token, -1 where its logits are not finite.
    """

    def __init__(self, decoder: Decoder, cache: StaticCache) -> None:
        self.decoder, self.cache = decoder, cache
        self.chunk = CHUNK if decoder.joins else WHOLE
        self.likeliest: list[int] = []
        self._rows = 0
        self._repeated: list[kernels.Prepared] = []
        if decoder.device.type == "cpu" and decoder.dtype == torch.float32:
            self._rows = cache.slots + (self.chunk if decoder.joins else 0)
            self._buffers = _Buffers.of(decoder.config, self._rows, cache.slots)
            numbers = self._tokens, self._slots, self._positions = torch.zeros(
                3, self._rows, dtype=torch.int64
            ).unbind()
            normed, last, logits = self._buffers.normed, self._buffers.last, self._buffers.logits
            places = torch.zeros(cache.slots, dtype=torch.int64)
            self._likeliest = places.numpy()
            choose = kernels.likeliest(logits, places)
            operations = self._operations()
            self._run = kernels.numbered(numbers, kernels.together(operations))
            self._head = kernels.together([decoder.head.between(last, logits), choose])
            # Rows are the last of their sequences, each of one token.
            head = decoder.head.between(normed[: cache.slots], logits)
            self._repeated = kernels.together([*operations, head, choose])
            self._run_single = kernels.numbered(numbers, self._repeated)
            self._logits = [logits[:rows] for rows in range(cache.slots + 1)]

    def _operations(self) -> list[kernels.Prepared]:
        """All that is done before the head, in order."""
        decoder, cache, buffers = self.decoder, self.cache, self._buffers
        epsilon = decoder.config.epsilon
        found: list[kernels.Prepared] = [decoder.embedding.between(self._tokens, buffers.residual)]
        for number, layer in enumerate(decoder.layers):
            added = buffers.delta if number else None
            rows = buffers.found, self._slots, self._positions
            kept = cache.cosine, cache.sine, cache.keys[number], cache.values[number]
            norms = layer.query_norm, layer.key_norm
            found += [
                kernels.add_norm(buffers.residual, added, layer.attention_norm, epsilon, buffers.normed),
                layer.attention.between(buffers.normed, buffers.found),
                kernels.attend(*rows, *kept, *norms, layer.window, epsilon, buffers.attended),
                layer.output.between(buffers.attended, buffers.delta),
                kernels.add_norm(buffers.residual, buffers.delta, layer.inner_norm, epsilon, buffers.normed),
                *layer.inner.gated(buffers.normed, buffers.inner, buffers.gated),
                layer.down.between(buffers.gated, buffers.delta),
            ]
        return [*found, kernels.add_norm(buffers.residual, buffers.delta, decoder.norm, epsilon, buffers.normed)]

    def __call__(self, tokens: Sequence[int], slots: Sequence[int]) -> Float[Tensor, "rows vocabulary"]:
        """Read one token into each of some slots, and return the logits after it, which the next call overwrites.

        Raises:
            ModelError: a token is none of the vocabulary, a slot comes twice, or its context is full.
        """
        return self.read([[token] for token in tokens], slots)

    def read(self, tokens: Sequence[Sequence[int]], slots: Sequence[int]) -> Float[Tensor, "slots vocabulary"]:
        """Read some tokens into each of some slots; returns the logits after the last, which the next call overwrites.

        Raises:
            ModelError: a token is none of the vocabulary, a slot comes twice or gets nothing, or its context is full.
        """
        cache = self.cache
        if len({*slots}) != len(tokens) or not all(tokens):
            raise ModelError(f"slots {list(slots)} cannot take tokens", "give at least one token to each of some slots")
        for slot, own in zip(slots, tokens, strict=True):
            if cache.lengths[slot] + len(own) > cache.context:
                raise ModelError(
                    f"{len(own)} tokens after {cache.lengths[slot]} do not fit a context of {cache.context}",
                    "release the slot first, or give a shorter text",
                )
        if self._rows and all(len(own) == 1 for own in tokens):
            return self._read_single([own[0] for own in tokens], slots)
        with torch.inference_mode():
            return self._read_prompts(tokens, slots)

    def _read_single(self, tokens: Sequence[int], slots: Sequence[int]) -> Float[Tensor, "slots vocabulary"]:
        check_tokens(tokens, self.decoder.config.vocabulary)
        lengths = self.cache.lengths
        self._run_single((tokens, slots, [lengths[slot] for slot in slots]))
        for slot in slots:
            lengths[slot] += 1
        return self._result(len(tokens))

    def _read_prompts(self, tokens: Sequence[Sequence[int]], slots: Sequence[int]) -> Float[Tensor, "slots vocabulary"]:
        together = [i for i, (own, slot) in enumerate(zip(tokens, slots, strict=True)) if self._joined(own, slot)]
        if len(together) == len(tokens) and sum(map(len, tokens)) <= self._rows:
            return self._read_together(tokens, slots)
        found = torch.empty(len(tokens), self.decoder.config.vocabulary, device=self.decoder.device)
        for portion in _portions(together, [len(own) for own in tokens], self._rows):
            found[portion] = self._read_together([tokens[i] for i in portion], [slots[i] for i in portion])
        for i in {*range(len(tokens))} - {*together}:
            found[i] = self.decoder.prefill(torch.tensor(tokens[i]), self.cache, slots[i])
        self.likeliest = likeliest(found).tolist()
        return found

    def prefill(self, tokens: Sequence[int], slot: int) -> Float[Tensor, " vocabulary"]:
        """Read a prompt into a slot, and return the logits after it, which the next call overwrites.

        Raises:
            ModelError: as of `read`.
        """
        logits = torch.empty(0)
        for start in range(0, len(tokens), self.chunk):
            logits = self.read([tokens[start : start + self.chunk]], [slot])[0]
        return logits

    def recompute(self) -> bool:
        """Run the operations of the last step of one token again: what it takes but for Python's part.

        Returns:
            Whether there are any; elsewhere than on a CPU in float32 they are not prepared.
        """
        for operation in self._repeated:
            operation(1)
        return bool(self._repeated)

    def _joined(self, tokens: Sequence[int], slot: int) -> bool:
        """Whether tokens are rows among others, which does not depend on these."""
        prompts = self.decoder.joins and len(tokens) <= self.chunk and self.cache.lengths[slot] <= NEAR
        return self._rows > 0 and (len(tokens) == 1 or prompts)

    def _read_together(
        self, tokens: Sequence[Sequence[int]], slots: Sequence[int]
    ) -> Float[Tensor, "slots vocabulary"]:
        if all(len(own) == 1 for own in tokens):
            return self._read_single([own[0] for own in tokens], slots)
        buffers, lengths = self._buffers, self.cache.lengths
        given = [token for own in tokens for token in own]
        check_tokens(given, self.decoder.config.vocabulary)
        owners = [slot for own, slot in zip(tokens, slots, strict=True) for _ in own]
        self._run(
            (
                given,
                owners,
                [lengths[slot] + i for own, slot in zip(tokens, slots, strict=True) for i in range(len(own))],
            )
        )
        last = torch.tensor([*accumulate(map(len, tokens))]) - 1
        torch.index_select(buffers.normed, 0, last, out=buffers.last[: len(tokens)])
        for operation in self._head:
            operation(len(tokens))
        for own, slot in zip(tokens, slots, strict=True):
            lengths[slot] += len(own)
        return self._result(len(tokens))

    def _result(self, count: int) -> Float[Tensor, "slots vocabulary"]:
        self.likeliest = self._likeliest[:count].tolist()
        return self._logits[count]


def _portions(items: Sequence[int], sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Items in their order, as many at a time as are no larger than `most` together."""
    portion: list[int] = []
    for item in items:
        if sum(sizes[i] for i in portion) + sizes[item] > most:
            yield portion
            portion = []
        portion.append(item)
    if portion:
        yield portion
