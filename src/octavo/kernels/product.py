"""Matrices that stay packed while they are multiplied: sums of parts, each over some of the columns.

A part takes some columns of the inputs, times a factor each, and adds to every output. On a CPU all parts of a matrix
run in one go over the same tiles of rows, so that a format of many small pieces costs hardly more than one of a single
piece; on a GPU each part is a kernel that adds to what those before it left (octavo.kernels.gpu). Both decode weights
in registers as they read them; elsewhere each part is dequantized. Nothing is copied: whoever changes a part's tensors
in place makes a new `Product`.

Arithmetic is float32, or of whole numbers of eight bits: inputs are rounded to 255 levels of the largest of 32 that
stand next to each other, and the values of codes to multiples of a 64th to 128th of the largest, which integers and
small floats are anyway. Rounding inputs moves an output by about 0.5 % of its standard deviation over inputs, values
that are no such multiples by about as much again, values of trellises, of which the rarest are kept and the others are
means of 16, a little more. Packed codes and streams of 4,096 states have such a path, on processors with AVX-512 VNNI;
everything else is float32. On a GPU more than 64 inputs of bfloat16 are multiplied in bfloat16, with sums in float32.
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
from octavo.base.errors import FormatError
from octavo.kernels import cpu, gpu, reference
from octavo.kernels.backends import plain_backend, products_on_gpu
from octavo.kernels.columns import ALL, Columns, within
from octavo.kernels.lattice_parts import GroupedPart, VoronoiPart
from octavo.kernels.layout import packed_bytes
from octavo.kernels.shift_trellis import column_bytes, curve_values, mixer

SPACING = 2.0**-23
"""Of the largest value: how far values may lie from equal spaces to count as equally spaced."""


TILE_UNIT = 16
"""Rows of which the C++ products take multiples at a time."""


def _require(fits: bool, what: str) -> None:
    """Refuse what a kernel of the GPU, which checks nothing, would read out of bounds."""
    if not fits:
        raise FormatError(f"{what} of a packed matrix do not fit it", "the tensor is damaged or its shape is wrong")


def _scaled(scales: Tensor, rows: int, count: int, block: int) -> bool:
    return block > 0 and scales.shape[0] in (1, rows) and scales.shape[1] == -(-count // block)


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
    columns: Columns = ALL

    def join(self, native: Any) -> None:
        columns = self.columns.numbers, self.columns.factors
        native.add_codes(self.packed, self.row_codes, self.values, self.scales, self.block, *columns)

    def product(self, inputs: Float32[Tensor, "batch columns"], rows: int) -> Float32[Tensor, "batch rows"]:
        taken = self.columns.of(inputs)
        codes = reference.unpack(self.packed, len(self.values), rows * self.row_codes)
        codes = codes.view(rows, self.row_codes)[:, : taken.shape[1]]
        scales = self.scales.float()[:, torch.arange(taken.shape[1], device=codes.device) // self.block]
        return taken @ (self.values[codes.long()] * scales).T

    @cached_property
    def affine(self) -> bool:
        """Whether values are equally spaced but for the rounding of sums: their codes are multiplied instead."""
        steps = torch.arange(len(self.values), device=self.values.device)
        line = self.values[0] + steps * (self.values[1] - self.values[0])
        return bool(((line - self.values).abs() <= SPACING * self.values.abs().max()).all())

    def ready(self, rows: int, columns: int) -> None:
        """Find out what launches on a GPU depend on.

        Raises:
            FormatError: a size or number does not fit the matrix.
        """
        _ = self.affine
        count = self.columns.count(columns)
        _require(self.columns.fit(columns), "columns")
        _require(count <= self.row_codes, "rows of codes")
        _require(len(self.packed) == packed_bytes(rows * self.row_codes, len(self.values)), "codes")
        _require(_scaled(self.scales, rows, count, self.block), "scales")

    def on_gpu(self, inputs: Tensor, rows: int, onto: Tensor | None) -> Tensor:
        parts = self.packed, self.values, self.scales, self.columns.numbers, self.columns.factors
        return gpu.codes_product(inputs, *parts, onto, rows, self.row_codes, self.block, self.affine)

    def rows_on_gpu(self, index: Tensor, rows: int, columns: int) -> Tensor:
        count = self.columns.count(columns)
        parts = self.packed, self.values, self.scales
        return self.columns.spread(gpu.codes_rows(*parts, index, rows, self.row_codes, count, self.block), columns)


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

    def ready(self, rows: int, columns: int) -> None:
        _require(self.columns.fit(columns), "columns")
        _require(self.codes.shape == (rows, self.columns.count(columns)) and len(self.row_step) == rows, "grid codes")
        _require(len(self.points) % 2 == 1, "points")

    def on_gpu(self, inputs: Tensor, rows: int, onto: Tensor | None) -> Tensor:
        taken = self.columns.numbers, self.columns.factors
        return gpu.grid_product(inputs, self.codes, self.points, self.row_step, *taken, onto)

    def rows_on_gpu(self, index: Tensor, rows: int, columns: int) -> Tensor:
        return self.columns.spread(gpu.grid_rows(self.codes, self.points, self.row_step, index), columns)


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
        factors = self.scales.float(), self.block, torch.ones(len(self.codes), device=inputs.device)
        return self.columns.of(inputs) @ reference.shift_decode(self.codes, self._table, self.bits, rows, *factors).T

    @cached_property
    def _table(self) -> Float32[Tensor, " states"]:
        """The value of each state."""
        return curve_values(self.curve, self.places)

    def ready(self, rows: int, columns: int) -> None:
        count = self.columns.count(columns)
        _require(bool(((self.places >= 0) & (self.places <= len(self.curve) - 1)).all()), "values")
        _ = self._table
        _require(self.columns.fit(columns), "columns")
        _require(len(self.codes) == count and self.codes.shape[1] >= column_bytes(rows, self.bits), "streams")
        _require(_scaled(self.scales, rows, count, self.block), "scales")

    def on_gpu(self, inputs: Tensor, rows: int, onto: Tensor | None) -> Tensor:
        parts = self.codes, self._table, self.scales, self.columns.numbers, self.columns.factors
        return gpu.shift_product(inputs, *parts, onto, self.bits, rows, self.block)

    def rows_on_gpu(self, index: Tensor, rows: int, columns: int) -> Tensor:
        found = gpu.shift_rows(self.codes, self._table, self.scales, index, self.bits, rows, self.block)
        return self.columns.spread(found, columns)


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

    def ready(self, rows: int, columns: int) -> None:
        count = len(self.numbers)
        _require(within(self.numbers, columns) and len(self.values) == count, "single weights")
        ends = len(self.starts) == rows + 1 and int(self.starts[0]) == 0 and int(self.starts[-1]) == count
        _require(ends and not bool((self.starts.diff() < 0).any()), "rows of single weights")

    def on_gpu(self, inputs: Tensor, rows: int, onto: Tensor | None) -> Tensor:
        return gpu.sparse_product(inputs, self.starts, self.numbers, self.values, onto)

    def rows_on_gpu(self, index: Tensor, rows: int, columns: int) -> Tensor:
        return gpu.sparse_rows(self.starts, self.numbers, self.values, index, columns)


@dataclass(frozen=True, eq=False)
class ZerosPart:
    """Columns of zeros, through which nothing but NaN and infinite inputs is noticed."""

    numbers: Int32[Tensor, " count"]

    def join(self, native: Any) -> None:
        native.add_zeros(self.numbers)

    def product(self, inputs: Float32[Tensor, "batch columns"], rows: int) -> Float32[Tensor, "batch rows"]:
        return (0 * inputs[:, self.numbers.long()]).sum(1, keepdim=True).expand(-1, rows)

    def ready(self, rows: int, columns: int) -> None:
        _require(within(self.numbers, columns), "columns of zeros")

    def on_gpu(self, inputs: Tensor, rows: int, onto: Tensor | None) -> Tensor:
        return gpu.zeros_product(inputs, self.numbers, onto, rows)

    def rows_on_gpu(self, index: Tensor, rows: int, columns: int) -> Tensor:
        return torch.zeros(len(index), columns, device=index.device)


Part = CodesPart | GridPart | GroupedPart | ShiftPart | SparsePart | VoronoiPart | ZerosPart


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

    @cached_property
    def _ready(self) -> Sequence[Part]:
        """The parts, looked at once: that waits for the device, which no launch does."""
        for part in self.parts:
            part.ready(self.rows, self.columns)
        return self.parts

    def __call__(
        self, inputs: Float[Tensor, "batch columns"], arithmetic: Arithmetic | Literal["avx2", "portable"] = "exact"
    ) -> Float32[Tensor, "batch {self.rows}"]:
        """Inputs, float32 or bfloat16, times the transpose of the matrix (see `octavo.kernels.linear`).

        Args:
            inputs: rows of them.
            arithmetic: "avx2" is float32 as a processor without AVX-512 computes it, "portable" with the
                instructions that every processor has.
        """
        if plain_backend(inputs) is cpu:
            return cpu.multiply(self._native, inputs.contiguous(), self.rows, arithmetic)
        if products_on_gpu(inputs) and len(inputs):
            found, given = None, inputs.detach().contiguous()
            for part in self._ready:
                found = part.on_gpu(given, self.rows, found)
            return inputs.new_zeros(len(inputs), self.rows, dtype=torch.float32) if found is None else found
        wide = inputs.float()
        return sum((part.product(wide, self.rows) for part in self.parts), wide.new_zeros(len(wide), self.rows))

    def suits_many(self, arithmetic: Arithmetic) -> bool:
        """Whether any number of inputs is multiplied as fast as by a dense matrix, each as if it were alone."""
        return plain_backend(self._some) is cpu and self._native.suits_many(arithmetic)

    def take(self, index: Int64[Tensor, " count"]) -> Float32[Tensor, "count {self.columns}"] | None:
        """Rows of the matrix, in float32; None where neither C++ nor Triton is there to cut them out.

        On a GPU, which is not waited for, a row that the matrix does not have is NaN.

        Raises:
            FormatError: there is no such row.
        """
        if plain_backend(index) is cpu:
            return cpu.product_rows(self._native, index)
        if not products_on_gpu(index):
            return None
        found = torch.zeros(len(index), self.columns, device=index.device)
        for part in self._ready:
            found = found + part.rows_on_gpu(index.contiguous(), self.rows, self.columns)
        return found.masked_fill(((index < 0) | (index >= self.rows))[:, None], torch.nan)

    def lookup(
        self, index: Int64[Tensor, " most"], outputs: Float32[Tensor, "most {self.columns}"]
    ) -> Callable[[int], None] | None:
        """`take` prepared for memory that stays where it is; None where C++ does not read the rows.

        Whoever calls it sees to it that there are such rows.
        """
        return cpu.lookup(self._native, index, outputs) if plain_backend(index) is cpu else None

    def dense(self, begin: int, end: int, dtype: torch.dtype) -> Float[Tensor, "_ {self.columns}"] | None:
        """Rows begin to end of the matrix, in float32 or bfloat16; None where they are not read row by row."""
        if products_on_gpu(self._some) and dtype in (torch.float32, torch.bfloat16):
            found = self.take(torch.arange(begin, end, device=self._some.device))
            return None if found is None else found.to(dtype)
        if (
            self._streams
            or dtype not in (torch.float32, torch.bfloat16)
            or cpu.MISSING
            or self._some.device.type != "cpu"
        ):
            return None
        return cpu.product_dense(self._native, begin, end, dtype)

    @property
    def _streams(self) -> bool:
        """Whether weights lie column by column."""
        return any(isinstance(part, ShiftPart) for part in self.parts)

    @property
    def _some(self) -> Tensor:
        """One of the tensors, all of which are on one device."""
        return next(value for part in self.parts for value in vars(part).values() if isinstance(value, Tensor))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_native"}


def between(
    products: Sequence[Product],
    inputs: Float32[Tensor, "most columns"],
    outputs: Float32[Tensor, "most rows"],
    bias: Float32[Tensor, " rows"] | None,
    arithmetic: Arithmetic,
) -> Callable[[int], None]:
    """Products of the same inputs, prepared for memory that stays where it is: a function of how many rows are in use.

    Args:
        products: whose outputs lie beside each other.
        inputs, outputs: the memory.
        bias: added to each output; None for none.
        arithmetic: of the products.
    """
    if plain_backend(inputs) is cpu:
        return cpu.bound_products([product._native for product in products], inputs, outputs, bias, arithmetic, False)

    def run(rows: int) -> None:
        found = torch.cat([product(inputs[:rows]) for product in products], dim=1)
        outputs[:rows] = found if bias is None else found + bias

    return run


def gated(
    products: Sequence[Product],
    inputs: Float32[Tensor, "most columns"],
    outputs: Float32[Tensor, "most half"],
    bias: Float32[Tensor, " rows"] | None,
    arithmetic: Arithmetic,
) -> Callable[[int], None] | None:
    """silu of the first half of the outputs of `between` times the second, as it finds them; None where none does so.

    Threads keep outputs to themselves, which a buffer of them would take from one processor's cache to another's. Of
    streams of columns they would read twice as many, half as long.
    """
    alike = len(products) == 1 or (len(products) == 2 and products[0].rows == products[1].rows)
    if (
        not alike
        or any(product._streams for product in products)
        or outputs.shape[1] % TILE_UNIT
        or plain_backend(inputs) is not cpu
    ):
        return None
    return cpu.bound_products([product._native for product in products], inputs, outputs, bias, arithmetic, True)
