"""Matrices that stay packed while they are multiplied: sums of parts, each over some of the columns.

A part takes some columns of the inputs, times a factor each, and adds to every output. All parts of a matrix run in one
go over the same tiles of rows, so that a format of many small pieces costs hardly more than one of a single piece. C++
decodes weights in registers as it reads them; elsewhere each part is dequantized. Nothing is copied: whoever changes a
part's tensors in place makes a new `Product`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Float32, Int16, Int32, Int64, UInt8
from torch import Tensor

from octavo.kernels import cpu, reference
from octavo.kernels.backends import plain_backend


@dataclass(frozen=True, eq=False)
class Columns:
    """Which columns of the inputs a part takes.

    Attributes:
        numbers: of the columns, in the part's order; None for all, in their own.
        factors: what each is multiplied with first; None for 1.
    """

    numbers: Int32[Tensor, " count"] | None = None
    factors: Float32[Tensor, " count"] | None = None

    def of(self, values: Float32[Tensor, "batch columns"]) -> Float32[Tensor, "batch count"]:
        """The columns of some inputs, times their factors."""
        taken = values if self.numbers is None else values[:, self.numbers.long()]
        return taken if self.factors is None else taken * self.factors


@dataclass(frozen=True, eq=False)
class CodesPart:
    """Packed codes with a value for each code, and scales.

    Attributes:
        packed: codes of all rows (octavo.kernels.layout).
        row_codes: codes of a row; those beyond the columns are skipped.
        values: of each code, in any order.
        scales: float32 or bfloat16, [rows or 1, ceil(columns / block)].
        block: columns that share a scale.
        columns: of the inputs.
    """

    packed: UInt8[Tensor, " bytes"]
    row_codes: int
    values: Float32[Tensor, " levels"]
    scales: Float[Tensor, "_ _"]
    block: int
    columns: Columns = Columns()

    def join(self, native: Any) -> None:
        columns = self.columns.numbers, self.columns.factors
        native.add_codes(self.packed, self.row_codes, self.values, self.scales, self.block, *columns)

    def product(self, inputs: Float32[Tensor, "batch columns"], rows: int) -> Float32[Tensor, "batch rows"]:
        taken = self.columns.of(inputs)
        codes = reference.unpack(self.packed, len(self.values), rows * self.row_codes)
        codes = codes.view(rows, self.row_codes)[:, : taken.shape[1]]
        scales = self.scales.float()[:, torch.arange(taken.shape[1], device=codes.device) // self.block]
        return taken @ (self.values[codes.long()] * scales).T


@dataclass(frozen=True, eq=False)
class GridPart:
    """Wide grid codes [rows, columns]; see `octavo.kernels.separable_dequantize` for points and the step of a row."""

    codes: Int16[Tensor, "rows count"]
    points: Float32[Tensor, " points"]
    row_step: Float32[Tensor, " rows"]
    columns: Columns

    def join(self, native: Any) -> None:
        native.add_grid(self.codes, self.points, self.row_step, self.columns.numbers, self.columns.factors)

    def product(self, inputs: Float32[Tensor, "batch columns"], rows: int) -> Float32[Tensor, "batch rows"]:
        ones = torch.ones(self.codes.shape[1], device=inputs.device)
        steps = self.row_step, ones, self.points
        return self.columns.of(inputs) @ reference.separable_dequantize(self.codes, *steps, torch.float32).T


@dataclass(frozen=True, eq=False)
class ShiftPart:
    """Streams of a bit-shift trellis (octavo.kernels.shift_trellis), whose values lie on a curve.

    Attributes:
        codes: the stream of each column.
        places: where on the curve the value of each state lies, in knots from the first.
        curve: its values at 17 knots, between which it is linear.
        bits: of a code.
        scales: as of `CodesPart`.
        block: columns that share a scale.
        columns: of the inputs, with the columns' own scales as factors.
    """

    codes: UInt8[Tensor, "count bytes"]
    places: Float32[Tensor, " states"]
    curve: Float32[Tensor, " 17"]
    bits: int
    scales: Float[Tensor, "_ _"]
    block: int
    columns: Columns

    def join(self, native: Any) -> None:
        columns = self.columns.numbers, self.columns.factors
        native.add_shift(self.codes, self.places, self.curve, self.bits, self.scales, self.block, *columns)

    def product(self, inputs: Float32[Tensor, "batch columns"], rows: int) -> Float32[Tensor, "batch rows"]:
        knot = self.places.long().clamp(max=len(self.curve) - 2)
        table = torch.lerp(self.curve[knot], self.curve[knot + 1], self.places - knot)
        factors = self.scales.float(), self.block, torch.ones(len(self.codes), device=inputs.device)
        return self.columns.of(inputs) @ reference.shift_decode(self.codes, table, self.bits, rows, *factors).T


@dataclass(frozen=True, eq=False)
class SparsePart:
    """Single weights, row after row: those of row i are numbers starts[i] to starts[i + 1]."""

    starts: Int64[Tensor, " rows_1"]
    numbers: Int32[Tensor, " count"]
    values: Float32[Tensor, " count"]

    def join(self, native: Any) -> None:
        native.add_sparse(self.starts, self.numbers, self.values)

    def product(self, inputs: Float32[Tensor, "batch columns"], rows: int) -> Float32[Tensor, "batch rows"]:
        matrix = torch.zeros(rows, inputs.shape[1], device=inputs.device)
        owner = torch.arange(rows, device=inputs.device).repeat_interleave(self.starts.diff())
        return inputs @ matrix.index_put((owner, self.numbers.long()), self.values, accumulate=True).T


@dataclass(frozen=True, eq=False)
class ZerosPart:
    """Columns of zeros, through which nothing but NaN and infinite inputs is noticed."""

    numbers: Int32[Tensor, " count"]

    def join(self, native: Any) -> None:
        native.add_zeros(self.numbers)

    def product(self, inputs: Float32[Tensor, "batch columns"], rows: int) -> Float32[Tensor, "batch rows"]:
        return (0 * inputs[:, self.numbers.long()]).sum(1, keepdim=True).expand(-1, rows)


Part = CodesPart | GridPart | ShiftPart | SparsePart | ZerosPart


@dataclass(frozen=True, eq=False)
class Product:
    """A matrix ready to be multiplied.

    Attributes:
        rows, columns: of the matrix.
        parts: whose sum it is.
    """

    rows: int
    columns: int
    parts: Sequence[Part]

    @cached_property
    def _native(self) -> Any:
        native = cpu.new_product(self.rows, self.columns)
        for part in self.parts:
            part.join(native)
        return native

    def __call__(
        self, inputs: Float[Tensor, "batch columns"], portable: bool = False
    ) -> Float32[Tensor, "batch {self.rows}"]:
        """Inputs, float32 or bfloat16, times the transpose of the matrix (see `octavo.kernels.linear`)."""
        if plain_backend(inputs) is cpu:
            return cpu.multiply(self._native, inputs.contiguous(), self.rows, portable)
        wide = inputs.float()
        return sum((part.product(wide, self.rows) for part in self.parts), wide.new_zeros(len(wide), self.rows))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_native"}
