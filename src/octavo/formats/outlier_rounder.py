"""Formats with sparse outliers: the largest weights apart, in their place zeros in the same format without outliers.

Works with every element of fixed width. Memory is a copy of the tensor on top of what goes without outliers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from octavo.formats import outliers
from octavo.formats.elements.trellis import Trellis
from octavo.formats.importance import Importance
from octavo.formats.rounding import Rounder
from octavo.formats.scaling import Scaling, block_statistic
from octavo.formats.tensor import QuantizedTensor

if TYPE_CHECKING:
    from octavo.formats.format import Format


@dataclass(frozen=True, eq=False)
class OutlierRounder:
    """A format whose outliers are chosen and whose rest is settled (see octavo.formats.rounding.Rounder).

    Attributes:
        format: the format.
        shape: rows and columns.
        rest: of the same format without outliers.
        where: flat positions of the weights that are stored apart, ascending.
    """

    format: Format
    shape: tuple[int, int]
    rest: Rounder
    where: Int64[Tensor, " outliers"]

    @property
    def together(self) -> int:
        return self.rest.together

    @cached_property
    def _apart(self) -> Bool[Tensor, "rows columns"]:
        """Which weights are stored apart."""
        apart = torch.zeros(self.shape, dtype=torch.bool, device=self.where.device)
        apart.view(-1)[self.where] = True
        return apart

    def round(self, columns: slice, values: Float32[Tensor, "rows run"]) -> Float32[Tensor, "rows run"]:
        apart = self._apart[:, columns]
        rounded = self.rest.round(columns, values.masked_fill(apart, 0))
        return torch.where(apart, values.to(torch.bfloat16).float(), rounded)

    def quantize(self, weights: Float[Tensor, "..."]) -> QuantizedTensor:
        parts = dict(self.rest.quantize(_without(weights, self.where)).parts)
        if len(self.where):
            parts["outlier_index"] = outliers.encode_index(self.where, weights.numel())
            parts["outlier_value"] = weights.detach().reshape(-1)[self.where].to(torch.bfloat16)
        return QuantizedTensor(self.format, tuple(weights.shape), parts)


def settle(format: Format, weights: Float[Tensor, "..."], importance: Importance | None) -> OutlierRounder:
    """Outliers, and everything about the rest but its codes (see `Format.settle`).

    Raises:
        FormatError: a weight is NaN or infinite, or the importance has another shape.
    """
    matrix = weights.detach().reshape(-1, weights.shape[-1])
    rows, columns = matrix.shape
    count = outliers.outlier_count(format.outliers, matrix.numel())
    where = torch.empty(0, dtype=torch.int64, device=matrix.device)
    if count:
        block_statistic(matrix, Scaling("channel", "absmax", "fp32"))  # refuses NaN before it is taken for large
        known = _beyond_scale(matrix) if importance is None and isinstance(format.element, Trellis) else importance
        known = None if known is None else known.checked(rows, columns).normalized(matrix.device)
        where = outliers.largest(matrix, count, known)
    rest = replace(format, outliers=0.0).settle(_without(weights, where), importance)
    return OutlierRounder(format, (rows, columns), rest, where)


def dequantize(quantized: QuantizedTensor) -> Float32[Tensor, "..."]:
    """The tensor behind the parts, float32.

    Raises:
        CheckpointError: the positions of the outliers are damaged.
    """
    found = rest_of(quantized).dequantize()
    where, values = apart(quantized)
    found.view(-1)[where] = values
    return found


def rest_of(quantized: QuantizedTensor) -> QuantizedTensor:
    """The tensor with zeros, as its format rounds them, in place of the outliers."""
    others = {name: part for name, part in quantized.parts.items() if not name.startswith("outlier_")}
    return QuantizedTensor(replace(quantized.format, outliers=0.0), quantized.shape, others)


def apart(quantized: QuantizedTensor) -> tuple[Int64[Tensor, " outliers"], Float32[Tensor, " outliers"]]:
    """Flat positions, ascending, and values of the outliers.

    Raises:
        CheckpointError: the positions are damaged.
    """
    count = outliers.outlier_count(quantized.format.outliers, quantized.numel)
    if not count:
        device = next(iter(quantized.parts.values())).device
        return torch.empty(0, dtype=torch.int64, device=device), torch.empty(0, device=device)
    where = outliers.decode_index(quantized.parts["outlier_index"], count, quantized.numel)
    return where, quantized.parts["outlier_value"].float()


def _beyond_scale(matrix: Float[Tensor, "rows columns"]) -> Importance:
    """What ranks weights by how far they lie beyond the scales of rows and columns, where a trellis clips them."""
    squares = matrix.float().square()
    column = squares.mean(0)
    column = torch.where(column > 0, column, 1.0)
    row = (squares / column).mean(1)
    return Importance(1 / torch.where(row > 0, row, 1.0), 1 / column)


def _without(weights: Float[Tensor, "..."], where: Int64[Tensor, " outliers"]) -> Float[Tensor, "..."]:
    """The weights, in a copy with zeros at flat positions if there are any."""
    if not len(where):
        return weights
    left = weights.detach().clone(memory_format=torch.contiguous_format)
    left.view(-1)[where] = 0
    return left
