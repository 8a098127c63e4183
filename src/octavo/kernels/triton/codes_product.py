"""Products with packed codes on a GPU. How one goes depends on inputs and codes:

- one or two inputs of bfloat16, and equally spaced values: in whole numbers (octavo.kernels.triton.whole);
- 3 to MANY inputs of bfloat16 (more than FEW where values are not equally spaced), and blocks that tensor cores do not
  cut: inputs are laid out as tensor cores meet them, and codes go there as whole numbers or as halves of their values,
  each block being multiplied with its scale afterwards;
- up to FEW others: codes are decoded in registers and multiplied in float32;
- everything else: tiles of weights go through shared memory.

Inputs of float32 are multiplied in float32, never in tf32. With those of bfloat16 a product loses what `whole` says, or
2^-16 of it at most; beyond MANY inputs weights are rounded to bfloat16, as they are in a dense product.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from octavo.kernels.layout import Layout, is_power_of_two, layout_of
from octavo.kernels.triton.codes import arrange_kernel, few_kernel, many_kernel, rows_kernel, tile_kernel
from octavo.kernels.triton.launching import INTERPRETED, NARROW, NARROW_DTYPE, launch
from octavo.kernels.triton.operands import FEW, LEAST, MANY, Taken, decoded_rows, scale_stride
from octavo.kernels.triton.sums import summed
from octavo.kernels.triton.whole import whole_kernel
from octavo.kernels.tuning import Cut, Problem, measured, power_of_two

_ONE = 0x3F800000
"""The bits of 1.0."""

Way = Literal["whole", "many", "few", "tiles"]

_WORDS = ((4, torch.int32), (2, torch.int16), (1, torch.uint8))


@dataclass(frozen=True)
class Numbers:
    """Whole groups of codes that a kernel loads as one number.

    Attributes:
        digits: codes of a number.
        bytes: of a number.
        dtype: of the stream seen as numbers; None where it is read byte by byte.
        shifted: rows begin inside numbers.
    """

    digits: int
    bytes: int
    dtype: torch.dtype | None
    shifted: bool = False

    def of(self, packed: Tensor) -> Tensor:
        """The stream as a kernel reads it."""
        return packed if self.dtype is None else packed.view(self.dtype)


@dataclass(frozen=True, eq=False)
class Codes:
    """Packed codes; see `octavo.kernels.product.CodesPart`.

    Attributes:
        rows, count: of the weights.
        affine: whether values are equally spaced.
    """

    packed: Tensor
    values: Tensor
    scales: Tensor
    rows: int
    count: int
    row_codes: int
    block: int
    affine: bool = False

    @property
    def levels(self) -> int:
        return self.values.numel()

    @property
    def width(self) -> int:
        """Bits of a code; 0 where codes are digits of another base than a power of two."""
        return self.levels.bit_length() - 1 if is_power_of_two(self.levels) else 0

    @property
    def layout(self) -> Layout:
        return layout_of(self.levels)

    @cached_property
    def run(self) -> int:
        """Columns that share a scale: those of a block, or any number where one holds the row."""
        whole = self.layout.digits << 10
        return self.block if self.block < self.count else -(-self.count // whole) * whole

    @cached_property
    def choices(self) -> list[Numbers]:
        """Ways to read codes where rows begin with whole numbers, the longest first."""
        if self.width not in (1, 2, 4, 8):
            found = [Numbers(self.layout.digits, self.layout.bytes, None)]
        else:
            found = [Numbers(8 * size // self.width, size, dtype) for size, dtype in _WORDS]
        return [each for each in found if each.digits <= 8 or each.dtype is None if self._begins(each)]

    def _begins(self, numbers: Numbers) -> bool:
        size = 1 if numbers.dtype is None else numbers.bytes
        return _aligned(self.packed, size) and self.row_codes % numbers.digits == 0

    @cached_property
    def numbers(self) -> Numbers:
        """The longest numbers that no block cuts, if there are such; else the longest."""
        if not self.choices:
            single = self.width in (1, 2, 4)
            digits = 8 // self.width if single else self.layout.digits
            return Numbers(digits, 1 if single else self.layout.bytes, torch.uint8 if single else None, shifted=True)
        return next((each for each in self.choices if self.run % each.digits == 0), self.choices[0])

    @cached_property
    def words(self) -> Tensor | None:
        """The stream as 32-bit words, if rows and blocks begin with them and values are equally spaced."""
        fits = self.affine and self.width in (1, 2, 4, 8) and _aligned(self.packed, 4)
        if not fits or any(count * self.width % 32 for count in (self.row_codes, self.run)):
            return None
        return self.packed.view(torch.int32)

    @cached_property
    def chunked(self) -> Numbers | None:
        """The longest numbers of which as many as tensor cores take at once share a scale; None if there are none."""
        if self.width == 0:
            return None
        fitting = (each for each in self.choices if each.bytes < 4 or each.dtype is not None)
        return next((each for each in fitting if self.run % (LEAST * each.digits) == 0), None)


def _aligned(packed: Tensor, size: int) -> bool:
    """Whether bytes may be read as integers of a size."""
    return packed.numel() % size == 0 and packed.storage_offset() % size == 0


def way(inputs: Tensor, codes: Codes, taken: Taken) -> Way:
    """How a product goes."""
    batch = inputs.shape[0]
    narrow = inputs.dtype == torch.bfloat16 and taken.factors is None
    if batch <= 2 and narrow and codes.words is not None:
        return "whole"
    if (2 if codes.affine else FEW) < batch <= MANY and narrow and codes.chunked is not None:
        return "many"
    return "few" if batch <= FEW else "tiles"


def codes_product(inputs: Tensor, codes: Codes, taken: Taken, onto: Tensor | None) -> Tensor:
    """Inputs times the transpose of what codes stand for."""
    return _WAYS[way(inputs, codes, taken)](inputs, codes, taken, onto)


def problem(name: Way, inputs: Tensor, codes: Codes) -> Problem:
    """What the time of a product depends on."""
    return Problem(name, codes.levels, power_of_two(inputs.shape[0]), codes.rows, codes.count)


def codes_rows(codes: Codes, index: Tensor) -> Tensor:
    """Rows by their numbers, float32; where there is no such row, nothing of use."""
    arguments = codes.packed, codes.values, codes.scales, index
    sizes = codes.rows, codes.count, codes.row_codes, codes.packed.numel(), codes.run, scale_stride(codes.scales)
    layout = codes.layout
    constants = {"LEVELS": codes.levels, "WIDTH": codes.width, "DIGITS": layout.digits, "BYTES": layout.bytes}
    return decoded_rows(rows_kernel, index, codes.count, arguments, sizes, constants)


def _cut(name: Way, inputs: Tensor, codes: Codes, rule: Cut) -> Cut:
    return measured(problem(name, inputs, codes), inputs.device) or rule


def _whole(inputs: Tensor, codes: Codes, taken: Taken, onto: Tensor | None) -> Tensor:
    (batch, columns), words = inputs.shape, codes.words
    assert words is not None
    # Making inputs whole is work for all rows of a program, and the most of it at one bit.
    cut = _cut("whole", inputs, codes, Cut(rows=32 if codes.width == 1 else 16, width=128, warps=4, stages=2))
    digits = 32 // codes.width
    in_row = -(-codes.count // digits)
    width = min(cut.width, power_of_two(in_row))
    tiles = -(-in_row // width)
    splits = cut.splits_of(codes.rows, tiles)
    constants = {
        "LEVELS": codes.levels,
        "WIDTH": codes.width,
        "ROW_WORDS": codes.row_codes // digits,
        "SCALE_STRIDE": scale_stride(codes.scales),
        "EVEN": _even(codes.rows, cut.rows, in_row, width, tiles, splits),
        "NUMBERS": taken.numbers is not None,
        "INTERPRETED": INTERPRETED,
        "BATCH": batch,
        "ROWS": cut.rows,
        "WORDS": width,
    }

    def start(below: Tensor, out: Tensor, adding: bool) -> None:
        arguments = (
            *(inputs, words, codes.values, codes.scales, taken.tensors(inputs)[0], below, out),
            *(batch, columns, codes.rows, codes.count, in_row, -(-tiles // splits), codes.run),
        )
        grid = -(-codes.rows // cut.rows), splits
        launch(whole_kernel, grid, arguments, {**constants, "ONTO": adding}, cut.warps, cut.stages)

    return summed(inputs, codes.rows, splits, onto, start)


def _even(rows: int, height: int, in_row: int, width: int, tiles: int, splits: int) -> bool:
    """Whether programs take exactly what there is, and nothing needs to be asked about before it is read."""
    return rows % height == 0 and in_row % width == 0 and tiles % splits == 0


def _few(inputs: Tensor, codes: Codes, taken: Taken, onto: Tensor | None) -> Tensor:
    batch, columns = inputs.shape
    numbers = codes.numbers
    # Registers hold the sums of all rows: fewer of them for more inputs.
    cut = _cut("few", inputs, codes, Cut(rows=16 if batch == 1 else 8, width=128, warps=4, stages=2))
    in_row = -(-(codes.count + (numbers.digits - 1 if numbers.shifted else 0)) // numbers.digits)
    width = min(cut.width, power_of_two(in_row))
    tiles = -(-in_row // width)
    splits = cut.splits_of(codes.rows, tiles)
    source = numbers.of(codes.packed)
    constants = {
        "LEVELS": codes.levels,
        "WIDTH": codes.width,
        "DIGITS": numbers.digits,
        "BYTES": numbers.bytes,
        "PADDED": power_of_two(numbers.digits),
        "TYPED": numbers.dtype is not None,
        "TABLE": power_of_two(codes.levels),
        "AFFINE": codes.affine,
        "SHIFTED": numbers.shifted,
        "RAGGED": numbers.shifted or codes.run % numbers.digits != 0,
        "SHORT": codes.run < numbers.digits,
        "ROW_GROUPS": codes.row_codes // numbers.digits,
        "SCALE_STRIDE": scale_stride(codes.scales),
        "EVEN": _even(codes.rows, cut.rows, in_row, width, tiles, splits) and not numbers.shifted,
        "BATCH": power_of_two(batch),
        "ROWS": cut.rows,
        "GROUPS": width,
        **taken.constants,
    }

    def start(below: Tensor, out: Tensor, adding: bool) -> None:
        arguments = (
            *(inputs, source, codes.values, codes.scales, *taken.tensors(inputs), below, out),
            *(batch, columns, codes.rows, codes.count, codes.row_codes),
            *(source.numel(), in_row, -(-tiles // splits), codes.run, _ONE),
        )
        alike = numbers.digits if numbers.shifted else 1
        grid = alike * -(-codes.rows // (alike * cut.rows)), splits
        launch(few_kernel, grid, arguments, {**constants, "ONTO": adding}, cut.warps, cut.stages)

    return summed(inputs, codes.rows, splits, onto, start)


def _many(inputs: Tensor, codes: Codes, taken: Taken, onto: Tensor | None) -> Tensor:
    (batch, columns), numbers = inputs.shape, codes.chunked
    assert numbers is not None
    size = max(LEAST, power_of_two(batch))
    # More rows would not fit into registers.
    height = min(64 if size <= 32 else 32, max(LEAST, power_of_two(codes.rows)))
    cut = _cut("many", inputs, codes, Cut(rows=height, width=LEAST, warps=4, stages=3))
    chunk = LEAST * numbers.digits
    chunks = -(-codes.count // chunk)
    at_once = min(cut.warps, power_of_two(chunks))
    tiles = -(-chunks // at_once)
    splits = cut.splits_of(codes.rows, tiles)
    source = numbers.of(codes.packed)
    shape = {"DIGITS": numbers.digits, "GROUPS": LEAST, "BATCH": size}
    arranged = torch.empty(chunks * chunk * size, dtype=NARROW_DTYPE, device=inputs.device)
    totals = torch.empty(chunks * size, dtype=torch.float32, device=inputs.device)
    arguments = (inputs, taken.tensors(inputs)[0], arranged, totals, batch, columns, codes.count)
    launch(arrange_kernel, (chunks,), arguments, {**shape, "NUMBERS": taken.numbers is not None}, 4, 1)
    constants = {
        "LEVELS": codes.levels,
        "WIDTH": codes.width,
        "BYTES": numbers.bytes,
        "TYPED": numbers.dtype is not None,
        "TABLE": codes.levels,
        "AFFINE": codes.affine,
        "NARROW": NARROW,
        "ROWS": cut.rows,
        "CHUNKS": at_once,
        "ROW_GROUPS": codes.row_codes // numbers.digits,
        "SCALE_STRIDE": scale_stride(codes.scales),
        "EVEN": _even(codes.rows, cut.rows, chunks, at_once, tiles, splits) and codes.count % chunk == 0,
        **shape,
    }

    def start(below: Tensor, out: Tensor, adding: bool) -> None:
        arguments = (
            *(arranged, totals, source, codes.values, codes.scales, below, out),
            *(batch, codes.rows, source.numel(), -(-tiles // splits), codes.run // chunk, chunks),
        )
        grid = -(-codes.rows // cut.rows), splits
        launch(many_kernel, grid, arguments, {**constants, "ONTO": adding}, cut.warps, cut.stages)

    return summed(inputs, codes.rows, splits, onto, start)


def _tiles(inputs: Tensor, codes: Codes, taken: Taken, onto: Tensor | None) -> Tensor:
    batch, columns = inputs.shape
    numbers = codes.numbers
    # Codes are decoded again for every tile of inputs.
    size = min(max(LEAST, power_of_two(batch)), MANY if batch <= MANY or inputs.dtype == torch.float32 else 4 * MANY)
    cut = _cut("tiles", inputs, codes, Cut(rows=64, width=8, warps=4 if size <= MANY else 8, stages=2))
    padded = power_of_two(numbers.digits)
    groups = max(cut.width, LEAST // padded)
    tiles = -(-codes.count // (groups * (padded if numbers.shifted else numbers.digits)))
    splits = cut.splits_of(codes.rows, tiles) if batch <= MANY else 1
    # One by one, codes are read from the bytes of their groups.
    source = codes.packed if numbers.shifted else numbers.of(codes.packed)
    group = (codes.layout.digits, codes.layout.bytes) if numbers.shifted else (numbers.digits, numbers.bytes)
    constants = {
        "LEVELS": codes.levels,
        "WIDTH": codes.width,
        "DIGITS": group[0],
        "BYTES": group[1],
        "PADDED": padded,
        "TYPED": numbers.dtype is not None,
        "TABLE": power_of_two(codes.levels),
        "SHIFTED": numbers.shifted,
        "BATCH": size,
        "ROWS": cut.rows,
        "GROUPS": groups,
        **taken.constants,
        **taken.precision(inputs),
    }

    def start(below: Tensor, out: Tensor, adding: bool) -> None:
        arguments = (
            *(inputs, source, codes.values, codes.scales, *taken.tensors(inputs), below, out),
            *(batch, columns, codes.rows, codes.count, codes.row_codes, codes.row_codes // numbers.digits),
            *(source.numel(), -(-tiles // splits), codes.run, scale_stride(codes.scales)),
        )
        grid = -(-codes.rows // cut.rows), splits, -(-batch // size)
        launch(tile_kernel, grid, arguments, {**constants, "ONTO": adding}, cut.warps, cut.stages)

    return summed(inputs, codes.rows, splits, onto, start)


_WAYS = {"whole": _whole, "many": _many, "few": _few, "tiles": _tiles}
