"""Keys or values of one sequence, packed: groups of tokens that are quantized once and never again.

A format's blocks run along the last axis, and so the direction in which numbers share scales is a matter of layout:

- per channel, a group lies as [heads, channels, tokens]: a scale belongs to one channel for a run of tokens, so that a
  channel that is large throughout costs the others nothing. Keys have such channels;
- per token, it lies as [heads, tokens, channels]: a scale belongs to a run of channels of one token, as for values.

Source: "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache", arXiv 2402.02750, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from octavo.formats import Format, QuantizedTensor
from octavo.formats.stacking import stack, stackable

Sharing = Literal["channel", "token"]
"""What a scale belongs to."""


@dataclass(frozen=True, eq=False)
class PackedTokens:
    """The oldest tokens of one sequence; a value, which `extended` does not change.

    Attributes:
        format: of the numbers.
        sharing: what a scale belongs to.
        group: tokens that are quantized together.
        runs: tensors of shape [groups, heads, channels, tokens] (or tokens, channels), oldest first: a single one where
            the format can be stacked.
    """

    format: Format
    sharing: Sharing
    group: int
    runs: tuple[QuantizedTensor, ...] = ()

    @property
    def tokens(self) -> int:
        return self.group * sum(run.shape[0] for run in self.runs)

    @property
    def numel(self) -> int:
        return sum(run.numel for run in self.runs)

    def tensors(self) -> Iterator[Tensor]:
        """All that is held in memory."""
        for run in self.runs:
            yield from run.parts.values()

    def extended(self, states: Float[Tensor, "heads tokens channels"]) -> PackedTokens:
        """With further tokens, whose number is a multiple of the group.

        Raises:
            FormatError: a number is NaN or infinite, or a scale too large for its type.
        """
        groups = self._turned(states.unflatten(1, (-1, self.group)).transpose(0, 1)).contiguous()
        by_row = stackable(self.format, (1, *groups.shape[1:]))
        runs = list(self.runs)
        for part in (groups,) if by_row else groups.split(1):
            packed = self.format.quantize(part)
            if by_row and runs:
                packed = stack(runs.pop(), packed)
            runs.append(packed)
        return replace(self, runs=tuple(runs))

    def dequantize_into(self, out: Float[Tensor, "heads tokens channels"]) -> None:
        """Write the tokens into a tensor of any float dtype."""
        places = out.unflatten(1, (-1, self.group)).transpose(0, 1)
        done = 0
        for run in self.runs:
            places[done : done + run.shape[0]] = self._turned(run.dequantize())
            done += run.shape[0]

    def _turned(self, groups: Float[Tensor, "groups heads _ _"]) -> Float[Tensor, "groups heads _ _"]:
        """From tokens, channels to the layout of the groups, and back."""
        return groups.transpose(2, 3) if self.sharing == "channel" else groups
