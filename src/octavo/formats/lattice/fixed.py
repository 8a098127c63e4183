"""Fixed lattices under block scales: `lattice-z@4`, `lattice-d4@3`, `lattice-e8@2`.

A run of 1, 4 or 8 consecutive weights of a row, divided by their scale, is a vector, and its code the Voronoi code of
its nearest lattice point (octavo.formats.lattice.voronoi). The part `codes` holds the digits of a vector in the places
of its weights, the last vector of a row filled up with zeros; scales are those of any other element. Z in one dimension
is the integer format, value for value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.formats.densities import expected_absmax
from octavo.formats.elements.element import TENSOR_BLOCK
from octavo.formats.elements.integer import Integer
from octavo.formats.elements.tokens import split_token
from octavo.formats.importance import Importance
from octavo.formats.lattice.element import VectorElement, as_matrix, filled, in_units, spread_scales, taken
from octavo.formats.lattice.nearest import LATTICES
from octavo.formats.lattice.voronoi import VoronoiCode
from octavo.formats.scale_search import Steps, settled_scales, stored_scales
from octavo.formats.scaling import Scaling, block_statistic, row_ranges
from octavo.formats.tensor import QuantizedTensor
from octavo.kernels import pack, unpack
from octavo.measure.sources import Normal

if TYPE_CHECKING:
    from octavo.formats.format import Format

PREFIX = "lattice-"
EXAMPLE = "lattice-e8@2 b64 search:s8"

TRIED = Steps(tuple(step / 4 for step in range(-5, 4)), (-1 / 8, 1 / 8))
"""Multiples of the base scale that a search tries; a vector is dear to round, and signs mean nothing to it."""


@dataclass(frozen=True)
class FixedLattice(VectorElement):
    """A Voronoi code of one of the fixed lattices.

    Attributes:
        name: of the lattice: z, d4 or e8.
        bits: of each weight, 1 to 8; Z from 2.
    """

    name: str
    bits: int

    def __post_init__(self) -> None:
        least = 2 if self.name == "z" else 1
        if not least <= self.bits <= 8:
            raise FormatError(f"{PREFIX}{self.name} has {least} to 8 bits", f"write for instance {EXAMPLE}")

    @property
    def dimension(self) -> int:
        return self.code.lattice.dimension

    @property
    def levels(self) -> int:
        return 2**self.bits

    @property
    def code(self) -> VoronoiCode:
        return VoronoiCode(LATTICES[self.name], self.levels)

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}@{self.bits}"

    def span(self, scaling: Scaling) -> float:
        """What a block's statistic is in units of its scale.

        For Z that of the integers; for others such that normal data have least error, to a few percent: the fewer the
        bits, the more of the data may lie outside the cell.
        """
        if self.name == "z":
            return Integer(self.levels).span(scaling.base, scaling.block)
        deviation = self.levels / ((2.5 if self.name == "d4" else 3.0) + self.bits / 2)
        normal = Normal.unit_rms()
        match scaling.base:
            case "rms":
                return deviation
            case "absmean":
                return deviation * normal.mean_absolute
            case _:
                return deviation * expected_absmax(normal, scaling.block or TENSOR_BLOCK)

    def settle(self, format: Format, weights: Float[Tensor, "..."], importance: Importance | None) -> LatticeRounder:
        """The scales of a tensor (see `Format.settle`).

        Raises:
            FormatError: a weight is NaN or infinite, or the importance has another shape.
        """
        matrix, scaling = as_matrix(weights), format.scaling
        known = None if importance is None else importance.checked(*matrix.shape).normalized(matrix.device)
        scales, level = block_statistic(matrix, scaling) / self.span(scaling), None
        if scaling.statistic == "search":
            tried = None if self.name == "z" else TRIED
            scales, level = settled_scales(matrix, scales, self._values, scaling, known, tried)
        return LatticeRounder(format, self, matrix.shape[1], stored_scales(scales, level, scaling))

    def take_rows(self, quantized: QuantizedTensor, index: Int[Tensor, " chosen"] | slice) -> Float32[Tensor, "_ _"]:
        columns = quantized.shape[-1]
        rows, row = quantized.numel // columns, self.padded(columns)
        digits = unpack(quantized.parts["codes"], self.levels, rows * row).view(rows, row)[index]
        parts = dict(quantized.parts)
        if parts["scales"].shape[0] > 1:
            parts["scales"] = taken(parts["scales"], index)
        scales = spread_scales(quantized.format.scaling, parts, slice(0, columns), columns)
        values = torch.empty(len(digits), columns, device=digits.device)
        for part in row_ranges(*values.shape):
            points = self.code.decode(digits[part].view(-1, self.dimension)).view(-1, row)[:, :columns]
            values[part] = points * (scales if len(scales) == 1 else scales[part])
        return values

    def _values(self, weights: Tensor, scales: Tensor, used: Tensor, run: int) -> Tensor:
        """See `octavo.formats.scale_search.Values`."""
        blocks = torch.arange(weights.shape[1], device=weights.device) // run
        points = self.points(in_units(weights, scales[:, blocks]))
        return points * used[:, blocks]

    def points(self, units: Float32[Tensor, "rows columns"]) -> Float32[Tensor, "rows columns"]:
        """The code's points for weights in units of their scales."""
        vectors = filled(units, self.dimension).view(-1, self.dimension)
        return self.code.decode(self.code.encode(vectors)).view(len(units), -1)[:, : units.shape[1]]


@dataclass(frozen=True, eq=False)
class LatticeRounder:
    """A fixed lattice with its scales (see octavo.formats.rounding.Rounder).

    Attributes:
        format: the format.
        element: its element.
        columns: of the matrix.
        parts: scales as they are stored.
    """

    format: Format
    element: FixedLattice
    columns: int
    parts: Mapping[str, Tensor]

    @property
    def together(self) -> int:
        return self.element.dimension

    @cached_property
    def _scales(self) -> Float32[Tensor, "_ columns"]:
        return spread_scales(self.format.scaling, self.parts, slice(0, self.columns), self.columns)

    def round(self, columns: slice, values: Float32[Tensor, "rows run"]) -> Float32[Tensor, "rows run"]:
        scales = self._scales[:, columns]
        rounded = torch.empty_like(values)
        for part in row_ranges(*values.shape):
            own = scales if len(scales) == 1 else scales[part]
            rounded[part] = self.element.points(in_units(values[part], own)) * own
        return rounded

    def quantize(self, weights: Float[Tensor, "..."]) -> QuantizedTensor:
        matrix, element = as_matrix(weights), self.element
        codes = torch.empty(len(matrix), element.padded(self.columns), dtype=torch.uint8, device=matrix.device)
        for part in row_ranges(*matrix.shape):
            own = self._scales if len(self._scales) == 1 else self._scales[part]
            vectors = filled(in_units(matrix[part], own), element.dimension).view(-1, element.dimension)
            codes[part] = element.code.encode(vectors).view(-1, codes.shape[1])
        parts = {"codes": pack(codes.flatten(), element.levels), **self.parts}
        return QuantizedTensor(self.format, tuple(weights.shape), parts)


def parse_fixed_lattice(token: str) -> FixedLattice:
    """`lattice-e8@2`: a lattice and whole bits a weight.

    Raises:
        FormatError: no bits, more than them, or an impossible number.
    """
    name, arguments, levels = split_token(token)
    if arguments or levels is None or not math.log2(levels).is_integer():
        raise FormatError(f"{token!r} has no whole number of bits alone", f"write for instance {EXAMPLE}")
    return FixedLattice(name.removeprefix(PREFIX), levels.bit_length() - 1)
