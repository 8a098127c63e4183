"""Matrices that stay packed while they are multiplied: sums of parts, each over some of the columns.

A part takes some columns of the inputs, times a factor each, and adds to every output. All parts of a matrix run in one
go over the same tiles of rows, so that a format of many small pieces costs hardly more than one of a single piece. C++
decodes weights in registers as it reads them; elsewhere each part is dequantized. Nothing is copied: whoever changes a
part's tensors in place makes a new `Product`.

Arithmetic is float32, or of whole numbers of eight bits: inputs are rounded to 255 levels of the largest of 32 that
stand next to each other, and the values of codes to multiples of a 64th to 128th of the largest, which integers and
small floats are anyway. Rounding inputs moves an output by about 0.5 % of its standard deviation over inputs, values
that are no such multiples by about as much again, values of trellises, of which the rarest are kept and the others are
means of 16, a little more. Packed codes and streams of 4,096 states have such a path, on processors with AVX-512 VNNI;
everything else is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Float32, Int16, Int32, Int64, UInt8
from torch import Tensor

from octavo.base.arithmetic import Arithmetic
from octavo.kernels import cpu, reference
from octavo.kernels.backends import plain_backend
from octavo.kernels.shift_trellis import mixer


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
        places: where on the curve the value of each state lies, in knots from the first, in the order of `ranks`.
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
        values = self.codes, self.places, self.curve, self.bits
        native.add_shift(*values, mixer(len(self.places), self.bits), self.scales, self.block, *columns)

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
        self, inputs: Float[Tensor, "batch columns"], arithmetic: Arithmetic | Literal["portable"] = "exact"
    ) -> Float32[Tensor, "batch {self.rows}"]:
        """Inputs, float32 or bfloat16, times the transpose of the matrix (see `octavo.kernels.linear`).

        Args:
            inputs: rows of them.
            arithmetic: "portable" is float32 with the instructions that every processor has.
        """
        if plain_backend(inputs) is cpu:
            return cpu.multiply(self._native, inputs.contiguous(), self.rows, arithmetic)
        wide = inputs.float()
        return sum((part.product(wide, self.rows) for part in self.parts), wide.new_zeros(len(wide), self.rows))

    def suits_many(self, arithmetic: Arithmetic) -> bool:
        """Whether any number of inputs is multiplied as fast as by a dense matrix, each as if it were alone."""
        return self._device.type == "cpu" and not cpu.MISSING and self._native.suits_many(arithmetic)

    def take(self, index: Int64[Tensor, " count"]) -> Float32[Tensor, "count {self.columns}"] | None:
        """Rows of the matrix, in float32; None where C++ is not there to cut them out.

        Raises:
            FormatError: there is no such row.
        """
        return cpu.product_rows(self._native, index) if plain_backend(index) is cpu else None

    def dense(self, begin: int, end: int, dtype: torch.dtype) -> Float[Tensor, "_ {self.columns}"] | None:
        """Rows begin to end of the matrix, in float32 or bfloat16; None where C++ does not read them row by row."""
        streams = any(isinstance(part, ShiftPart) for part in self.parts)
        if streams or dtype not in (torch.float32, torch.bfloat16) or cpu.MISSING or self._device.type != "cpu":
            return None
        return cpu.product_dense(self._native, begin, end, dtype)

    @property
    def _device(self) -> torch.device:
        return next(value.device for part in self.parts for value in vars(part).values() if isinstance(value, Tensor))

    def between(
        self,
        inputs: Float32[Tensor, "most columns"],
        outputs: Float32[Tensor, "most width"],
        first: int,
        bias: Float32[Tensor, " {self.rows}"] | None,
        arithmetic: Arithmetic,
    ) -> Callable[[int], None]:
        """The product prepared for memory that stays where it is: a function of how many of its first rows are in use.

        Args:
            inputs, outputs: the memory.
            first: column of the outputs where those of this product begin.
            bias: added to each; None for none.
            arithmetic: of the product.
        """
        if plain_backend(inputs) is cpu:
            return cpu.bound_product(self._native, inputs, outputs, first, bias, arithmetic)

        def run(rows: int) -> None:
            found = self(inputs[:rows])
            outputs[:rows, first : first + self.rows] = found if bias is None else found + bias

        return run

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_native"}
