"""Making one token of each of several sequences: every weight is read once, and nothing is allocated but logits' views.

On the CPU in float32 the work between products is a handful of prepared C++ operations a layer
(octavo.kernels.decoding), whose rows do not know each other. Elsewhere sequences go through the prompt's path in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from octavo.base.errors import ModelError
from octavo.kernels import decoding as kernels
from octavo.layers.linear import look_up
from octavo.models.decoder import Decoder, Layer, check_tokens
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
    def of(cls, decoder: Decoder, rows: int) -> _Buffers:
        config = decoder.config
        channels, shared = config.heads * config.rotary.width, config.shared_heads * config.rotary.width
        widths = config.hidden, config.hidden, channels + 2 * shared, channels
        widths = *widths, 2 * config.inner, config.inner, config.hidden, config.vocabulary
        return cls(*(torch.zeros(rows, width) for width in widths))

    def first(self, rows: int) -> _Buffers:
        return _Buffers(*(buffer[:rows] for buffer in vars(self).values()))


@dataclass(frozen=True, eq=False)
class _Block:
    """One layer and its prepared operations."""

    layer: Layer
    enter: Callable[[int, bool], None]
    attend: Callable[[int], None]
    between: Callable[[int, bool], None]
    gate: Callable[[int], None]


class DecodingStep:
    """Makes tokens of the sequences in a cache.

    Args:
        decoder: the model.
        cache: of the model; its slots' lengths grow by one with each token.
    """

    def __init__(self, decoder: Decoder, cache: StaticCache) -> None:
        self.decoder, self.cache = decoder, cache
        self._prepared = decoder.device.type == "cpu" and decoder.dtype == torch.float32
        if not self._prepared:
            return
        buffers = _Buffers.of(decoder, cache.slots)
        self._slots, self._positions = torch.zeros(2, cache.slots, dtype=torch.int64).unbind()
        self._views = [buffers.first(rows) for rows in range(cache.slots + 1)]
        norm = buffers.residual, buffers.delta
        epsilon = decoder.config.epsilon
        turns = cache.cosine, cache.sine
        self._blocks = [
            _Block(
                layer,
                kernels.add_norm(*norm, layer.attention_norm, epsilon, buffers.normed),
                kernels.attend(
                    buffers.found,
                    self._slots,
                    self._positions,
                    *turns,
                    *(cache.keys[number], cache.values[number]),
                    *(layer.query_norm, layer.key_norm),
                    layer.window,
                    epsilon,
                    buffers.attended,
                ),
                kernels.add_norm(*norm, layer.inner_norm, epsilon, buffers.normed),
                kernels.gate(buffers.inner, buffers.gated),
            )
            for number, layer in enumerate(decoder.layers)
        ]
        self._leave = kernels.add_norm(*norm, decoder.norm, epsilon, buffers.normed)

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
        if not self._prepared:
            read = [self.decoder.prefill(token[None], cache, slot) for token, slot in zip(given, slots, strict=True)]
            return torch.stack(read)
        rows = len(tokens)
        self._slots[:rows] = torch.tensor(slots)
        self._positions[:rows] = torch.tensor([cache.lengths[slot] for slot in slots])
        view = self._views[rows]
        view.residual.copy_(look_up(self.decoder.embedding, given, torch.float32))
        for number, block in enumerate(self._blocks):
            layer = block.layer
            block.enter(rows, number > 0)
            layer.attention.into(view.normed, view.found)
            block.attend(rows)
            layer.output.into(view.attended, view.delta)
            block.between(rows, True)
            layer.inner.into(view.normed, view.inner)
            block.gate(rows)
            layer.down.into(view.gated, view.delta)
        self._leave(rows, True)
        self.decoder.head.into(view.normed, view.logits)
        for slot in slots:
            cache.lengths[slot] += 1
        return view.logits
