"""Quantizing to fixed-rate trellis codes and back (octavo.formats.elements.trellis).

A path runs along a column, so all weights of a column should follow one law: besides the scales that the format string
names, every column has a scale of its own. Both are root mean squares of what the other leaves, whatever importance
says: at one width for all, the error of a weight is in proportion to its scale. (`search` is `rms` here.) Importance
weighs the fit of the curve, and decides between widths in groups of columns (octavo.formats.column_groups).

Parts:

- `codes`: uint8 [columns, bytes], the stream of each column (octavo.kernels.shift_trellis);
- `scales`, `scale`: as in octavo.formats.format;
- `column_scales`: uint8 [1, columns], and `column_scale`: float32 [2], scales of type u8 (octavo.formats.scale_types);
- `codebook`: float32 [17], the curve at its knots.

The value of a weight is table[state] * (scale * column scale). Memory is a few float32 copies of the tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from octavo import kernels
from octavo.formats.densities import expected_absmax
from octavo.formats.elements.element import TENSOR_BLOCK
from octavo.formats.elements.trellis import KNOTS, Trellis
from octavo.formats.importance import Importance
from octavo.formats.scale_types import scale_type
from octavo.formats.scaling import Scaling, block_statistic
from octavo.formats.tensor import QuantizedTensor
from octavo.kernels.shift_trellis import column_bytes
from octavo.measure.sources import Normal

if TYPE_CHECKING:
    from octavo.formats.format import Format

BALANCINGS = 3
"""Times that the scales of rows and those of columns take turns."""

COLUMN_SCALE = scale_type("u8")


def stored_bits(element: Trellis, scaling: Scaling, rows: int, columns: int) -> int:
    """Exact bits of all parts of a matrix."""
    scale_rows, blocks = scaling.scales_shape(rows, columns)
    bits = 8 * columns * column_bytes(rows, element.bits) + 32 * KNOTS
    bits += scale_rows * blocks * scaling.kind.bits + 32 * scaling.kind.second_level
    return bits + columns * COLUMN_SCALE.bits + 32 * COLUMN_SCALE.second_level


@dataclass(frozen=True, eq=False)
class TrellisRounder:
    """A trellis with its scales and its curve (see octavo.formats.rounding.Rounder).

    Attributes:
        format: the format.
        parts: scales, column scales and codebook as they are stored.
    """

    format: Format
    parts: Mapping[str, Tensor]

    @property
    def together(self) -> int:
        return 1

    @cached_property
    def _table(self) -> Float32[Tensor, " states"]:
        return _element(self.format).table(self.parts["codebook"])

    @cached_property
    def _scales(self) -> tuple[Float32[Tensor, "_ blocks"], Float32[Tensor, " columns"]]:
        return used_scales(self.format.scaling, self.parts)

    @cached_property
    def _alone(self) -> dict[int, tuple[Float32[Tensor, "rows 1"], UInt8[Tensor, "1 bytes"]]]:
        """Columns that were rounded one by one, and their codes: whoever feeds errors back goes on to store them."""
        return {}

    def round(self, columns: slice, values: Float32[Tensor, "rows run"]) -> Float32[Tensor, "rows run"]:
        scales, column = self._scales
        run = self.format.scaling.run(len(column))
        own = scales[:, torch.arange(columns.start, columns.stop) // run], column[columns]
        bits = _element(self.format).bits
        codes = kernels.shift_encode(_scaled(values, own[0] * own[1]), self._table, bits)
        if columns.stop == columns.start + 1:
            self._alone[columns.start] = values.clone(), codes
        return kernels.shift_decode(codes, self._table, bits, len(values), own[0], 1, own[1])

    def quantize(self, weights: Float[Tensor, "..."]) -> QuantizedTensor:
        matrix = _matrix(weights)
        known = {j: codes for j, (values, codes) in self._alone.items() if torch.equal(matrix[:, j, None], values)}
        left = [column for column in range(matrix.shape[1]) if column not in known]
        scale = _product(*self._scales, self.format.scaling)[:, left]
        bits = _element(self.format).bits
        codes = torch.empty(matrix.shape[1], column_bytes(len(matrix), bits), dtype=torch.uint8, device=matrix.device)
        if left:
            codes[left] = kernels.shift_encode(_scaled(matrix[:, left], scale), self._table, bits)
        for column, found in known.items():
            codes[column] = found[0]
        return QuantizedTensor(self.format, tuple(weights.shape), {"codes": codes, **self.parts})


def settle(format: Format, weights: Float[Tensor, "..."], importance: Importance | None) -> TrellisRounder:
    """Scales and curve of a tensor (see `Format.settle`).

    Raises:
        FormatError: a weight is NaN or infinite, or the importance has another shape.
    """
    matrix = _matrix(weights)
    block_statistic(matrix, Scaling("channel", "absmax", "fp32"))  # refuses NaN, with its place in the whole
    parts = _balanced(matrix, format.scaling)
    scale = _product(*used_scales(format.scaling, parts), format.scaling)
    mass = scale.square()
    if importance is not None:
        known = importance.checked(*matrix.shape).damped()
        mass = mass * known.row.to(mass)[:, None] * known.column.to(mass)
    parts["codebook"] = _element(format).fit(_scaled(matrix, scale), mass.expand(matrix.shape))
    return TrellisRounder(format, parts)


def _matrix(weights: Float[Tensor, "..."]) -> Float32[Tensor, "rows columns"]:
    return weights.detach().reshape(-1, weights.shape[-1]).float().contiguous()


def dequantize(quantized: QuantizedTensor) -> Float32[Tensor, "..."]:
    """The tensor behind the parts, float32."""
    return _decoded(quantized, quantized.numel // quantized.shape[-1]).view(quantized.shape)


def places(
    quantized: QuantizedTensor,
) -> tuple[Float32[Tensor, "rows columns"], Float32[Tensor, "_ columns"]]:
    """Where on the curve each weight's value lies, in knots from the first, and the scale of each weight."""
    element, columns = _element(quantized.format), quantized.shape[-1]
    codes, rows = quantized.parts["codes"], quantized.numel // columns
    unit = torch.ones(1, 1, device=codes.device), columns, torch.ones(columns, device=codes.device)
    found = kernels.shift_decode(codes, element.places.to(codes.device), element.bits, rows, *unit)
    return found, _product(*used_scales(quantized.format.scaling, quantized.parts), quantized.format.scaling)


def slice_rows(quantized: QuantizedTensor, start: int, stop: int) -> Float32[Tensor, "rows columns"]:
    """Rows start to stop of the tensor seen as a matrix."""
    bits, rows = _element(quantized.format).bits, quantized.numel // quantized.shape[-1]
    # Eight rows begin with a whole byte, and the last window looks ahead.
    first, ahead = start // 8 * 8, (_element(quantized.format).states.bit_length() + 7) // 8
    cut = dict(quantized.parts)
    cut["codes"] = cut["codes"][:, first * bits // 8 : column_bytes(stop, bits) + ahead]
    if cut["scales"].shape[0] == rows:
        cut["scales"] = cut["scales"][first:stop]
    part = QuantizedTensor(quantized.format, (stop - first, quantized.shape[-1]), cut)
    return _decoded(part, stop - first)[start - first :]


def select_rows(quantized: QuantizedTensor, index: Int64[Tensor, " chosen"]) -> Float32[Tensor, "chosen columns"]:
    """Rows of the tensor seen as a matrix, in any order, with repeats."""
    element, columns = _element(quantized.format), quantized.shape[-1]
    rows = quantized.numel // columns
    group, inverse = torch.unique(index // 8, return_inverse=True)
    ahead = (element.states.bit_length() + 7) // 8
    streams = torch.nn.functional.pad(quantized.parts["codes"], (0, element.bits + ahead))
    # Eight rows of every column are streams of their own.
    place = group[:, None] * element.bits + torch.arange(element.bits + ahead, device=group.device)
    cut = streams[:, place].transpose(0, 1).reshape(len(group) * columns, -1)
    unit = torch.ones(1, 1, device=cut.device), max(len(cut), 1), torch.ones(len(cut), device=cut.device)
    table = element.table(quantized.parts["codebook"])
    values = kernels.shift_decode(cut, table, element.bits, 8, *unit).view(8, len(group), columns)
    scales, column = used_scales(quantized.format.scaling, quantized.parts)
    own = scales[index if scales.shape[0] == rows else torch.zeros_like(index)]
    return values[index % 8, inverse] * _product(own, column, quantized.format.scaling)


def _decoded(quantized: QuantizedTensor, rows: int) -> Float32[Tensor, "rows columns"]:
    element, columns = _element(quantized.format), quantized.shape[-1]
    scales, column = used_scales(quantized.format.scaling, quantized.parts)
    run = quantized.format.scaling.run(columns)
    table = element.table(quantized.parts["codebook"])
    return kernels.shift_decode(quantized.parts["codes"], table, element.bits, rows, scales, run, column)


def used_scales(
    scaling: Scaling, parts: Mapping[str, Tensor]
) -> tuple[Float32[Tensor, "_ blocks"], Float32[Tensor, " columns"]]:
    """The scales behind "scales" and "scale", and those behind "column_scales" and "column_scale"."""
    column = COLUMN_SCALE.decode(parts["column_scales"], parts["column_scale"])
    return scaling.kind.decode(parts["scales"], parts.get("scale")), column[0]


def _balanced(matrix: Float32[Tensor, "rows columns"], scaling: Scaling) -> dict[str, Tensor]:
    """Scales and column scales as they are stored."""
    # The curve is fitted to whatever scales there are, so that a search would find little.
    scaling = replace(scaling, statistic="rms") if scaling.statistic == "search" else scaling
    column = torch.ones(matrix.shape[1], device=matrix.device)
    for _ in range(BALANCINGS):
        scales = block_statistic(_scaled(matrix, column), scaling)
        rest = _scaled(matrix, _product(scales, torch.ones_like(column), scaling))
        column = rest.square().mean(0).sqrt()
        column = _scaled(column, column.square().mean().sqrt())
    level = COLUMN_SCALE.level(column[None])
    parts = {"column_scales": COLUMN_SCALE.encode(column[None], level, up=False), "column_scale": level}
    assert level is not None
    column = COLUMN_SCALE.decode(parts["column_scales"], level)[0]
    scales = block_statistic(_scaled(matrix, column), scaling) / _span(scaling)
    second = scaling.kind.level(scales)
    parts["scales"] = scaling.kind.encode(scales, second, scaling.rounds_up)
    return parts if second is None else parts | {"scale": second}


def _span(scaling: Scaling) -> float:
    """What a statistic is of normal weights with root mean square 1."""
    if scaling.base == "rms":
        return 1.0
    return sqrt(2 / torch.pi) if scaling.base == "absmean" else expected_absmax(Normal(), scaling.block or TENSOR_BLOCK)


def _product(
    scales: Float32[Tensor, "_ blocks"], column: Float32[Tensor, " columns"], scaling: Scaling
) -> Float32[Tensor, "_ columns"]:
    """The scale of every weight, or one row of scales for all rows."""
    block = torch.arange(len(column), device=column.device) // scaling.run(len(column))
    return scales[:, block] * column


def _scaled(values: Float32[Tensor, "*shape"], scale: Float32[Tensor, "*scale"]) -> Float32[Tensor, "*shape"]:
    """Values in units of their scale; 0 where that is 0."""
    return torch.where(scale != 0, values / scale, 0.0)


def _element(format: Format) -> Trellis:
    assert isinstance(format.element, Trellis)
    return format.element
