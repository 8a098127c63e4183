"""Tensors with sparse outliers: the parameters of the rest; the outliers stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from jaxtyping import Float, Float32, Int64
from torch import Tensor, device

from octavo.formats import outlier_rounder
from octavo.formats.tensor import QuantizedTensor
from octavo.formats.tuning.tunable import Deviations, Tunable


@dataclass(frozen=True, eq=False)
class OutlierTunable:
    """A tensor with outliers (see octavo.formats.tuning.tunable.Tunable).

    Attributes:
        quantized: the tensor as it is stored.
        rest: the tensor without them.
    """

    quantized: QuantizedTensor
    rest: Tunable

    @property
    def device(self) -> device:
        return self.rest.device

    @property
    def sizes(self) -> Mapping[str, tuple[int, ...]]:
        return self.rest.sizes

    def values(self, deviations: Deviations) -> Float[Tensor, "rows columns"]:
        found = self.rest.values(deviations)
        where, exact = self._apart
        return found.flatten().index_copy(0, where, exact.to(found.dtype)).view(found.shape)

    def stored(self, deviations: Deviations) -> QuantizedTensor:
        moved = self.rest.stored(deviations).parts
        return replace(self.quantized, parts={**self.quantized.parts, **moved})

    @cached_property
    def _apart(self) -> tuple[Int64[Tensor, " outliers"], Float32[Tensor, " outliers"]]:
        where, values = outlier_rounder.apart(self.quantized)
        return where.to(self.device), values.to(self.device)
