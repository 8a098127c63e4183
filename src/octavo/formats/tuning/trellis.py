"""The curves of fixed-rate trellis codes as parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from octavo.formats import fixed_trellis
from octavo.formats.elements.trellis import KNOTS
from octavo.formats.tensor import QuantizedTensor
from octavo.formats.tuning.tunable import Deviations, moved_values


@dataclass(frozen=True, eq=False)
class TrellisTunable:
    """Trellis codes (see octavo.formats.tuning.tunable.Tunable).

    The parameter `codebook` holds shares of the mean distance between the knots of the curve.

    Attributes:
        quantized: the tensor as it is stored.
        device: where values are computed.
    """

    quantized: QuantizedTensor
    device: torch.device

    @property
    def sizes(self) -> Mapping[str, tuple[int, ...]]:
        return {"codebook": (KNOTS,)}

    def values(self, deviations: Deviations) -> Float[Tensor, "rows columns"]:
        left, share, scale = self._decoded
        curve = moved_values(self.quantized.parts["codebook"].to(self.device), deviations["codebook"])
        slope = curve.diff()
        low, rise = (table.index_select(0, left.flatten()).view(left.shape) for table in (curve, slope))
        return (low + rise * share) * scale

    def stored(self, deviations: Deviations) -> QuantizedTensor:
        curve = moved_values(self.quantized.parts["codebook"], deviations["codebook"].cpu())
        return replace(self.quantized, parts={**self.quantized.parts, "codebook": curve})

    @cached_property
    def _decoded(
        self,
    ) -> tuple[Int64[Tensor, "rows columns"], Float32[Tensor, "rows columns"], Float32[Tensor, "_ columns"]]:
        """The knot to the left of each weight's value, how far it is to the next, and the weight's scale."""
        place, scale = fixed_trellis.places(self.quantized)
        left = place.floor().clamp(0, KNOTS - 2)
        return left.long().to(self.device), (place - left).to(self.device), scale.to(self.device)
