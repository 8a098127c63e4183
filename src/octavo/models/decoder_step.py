"""Making one token of each of several sequences: every weight is read once, and nothing is allocated but logits' views.

On the CPU in float32 the work between products is a handful of prepared C++ operations a layer
(octavo.kernels.decoding), whose rows do not know each other. Elsewhere sequences go through the prompt's path in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from octavo.base.errors import ModelError
from octavo.kernels import decoding as kernels
from octavo.models.decoder import Decoder, check_tokens
from octavo.models.decoder_config import DecoderConfig
from octavo.models.static_cache import StaticCache


@dataclass(frozen=True, eq=False)
class _Buffers:
    """What goes from one operation to the next, a row a sequence."""

    residual: Tensor
    normed: Tensor
    found: Tensor
    attended: Tensor
    inner: Tensor
    gated: Tensor
    delta: Tensor
    logits: Tensor

    @classmethod
    def of(cls, config: DecoderConfig, rows: int) -> _Buffers:
        channels, shared = config.heads * config.rotary.width, config.shared_heads * config.rotary.width
        widths = config.hidden, config.hidden, channels + 2 * shared, channels
        widths = *widths, 2 * config.inner, config.inner, config.hidden, config.vocabulary
        return cls(*(torch.zeros(rows, width) for width in widths))


class DecodingStep:
    """Makes tokens of the sequences in a cache.

    Args:
        decoder: the model.
        cache: of the model; its slots' lengths grow by one with each token.
    """

    def __init__(self, decoder: Decoder, cache: StaticCache) -> None:
        self.decoder, self.cache = decoder, cache
        self._prepared: list[kernels.Prepared] | None = None
        if decoder.device.type == "cpu" and decoder.dtype == torch.float32:
            self._buffers = _Buffers.of(decoder.config, cache.slots)
            self._slots, self._positions = torch.zeros(2, cache.slots, dtype=torch.int64).unbind()
            self._prepared = self._operations()

    def _operations(self) -> list[kernels.Prepared]:
        """All that is done between the embedding and the logits, in order."""
        decoder, cache, buffers = self.decoder, self.cache, self._buffers
        epsilon = decoder.config.epsilon
        found: list[kernels.Prepared] = []
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
                layer.inner.between(buffers.normed, buffers.inner),
                kernels.gate(buffers.inner, buffers.gated),
                layer.down.between(buffers.gated, buffers.delta),
            ]
        return [
            *found,
            kernels.add_norm(buffers.residual, buffers.delta, decoder.norm, epsilon, buffers.normed),
            decoder.head.between(buffers.normed, buffers.logits),
        ]

    @torch.inference_mode()
    def __call__(self, tokens: Sequence[int], slots: Sequence[int]) -> Float[Tensor, "rows vocabulary"]:
        """Read one token into each of some slots, and return the logits after it, which the next call overwrites.

        Raises:
            ModelError: a token is none of the vocabulary, a slot comes twice, or its context is full.
        """
        cache = self.cache
        given = torch.tensor(tokens)
        check_tokens(given, self.decoder.config.vocabulary)
        if len({*slots}) != len(tokens) or any(cache.lengths[slot] >= cache.context for slot in slots):
            raise ModelError(
                f"slots {list(slots)} cannot take a token each in a context of {cache.context}", "release them first"
            )
        if self._prepared is None:
            read = [self.decoder.prefill(token[None], cache, slot) for token, slot in zip(given, slots, strict=True)]
            return torch.stack(read)
        rows = len(tokens)
        # Through numpy, whose writes of a few numbers take a tenth of the time of torch's.
        self._slots.numpy()[:rows] = slots
        self._positions.numpy()[:rows] = [cache.lengths[slot] for slot in slots]
        self._buffers.residual[:rows] = self.decoder.embedding(given, torch.float32)
        for operation in self._prepared:
            operation(rows)
        for slot in slots:
            cache.lengths[slot] += 1
        return self._buffers.logits[:rows]
