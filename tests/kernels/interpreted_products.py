"""Run by test_triton.py as a program of its own: products on a GPU under Triton's interpreter against plain torch.

See interpreted.py for why. Prints what differs; fails where a kernel touches memory that is none of its arguments'.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import dataclasses
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from triton.runtime import interpreter

from octavo.kernels import backends, product, reference
from octavo.kernels.columns import Columns
from octavo.kernels.layout import packed_bytes
from octavo.kernels.product import CodesPart, GridPart, Part, Product, ShiftPart, SparsePart, ZerosPart
from octavo.kernels.triton import codes_product, launching, operands, part_products, sums

TOLERANCE = 2e-6
"""Of the sum of all magnitudes, with inputs of float32."""

HALVES = 2.0**-15
"""The same with inputs of bfloat16, where float32 is split in two or becomes whole numbers."""

BATCHES = (1, 3, 16, 17, 64)

MANY = 70
"""Inputs that tiles of inputs do not hold at once."""

SHAPES = ((64, 64, 64), (37, 128, 32), (5, 200, 1000), (19, 77, 7))
"""Rows, columns and block: whole programs, whole numbers in rows and blocks, one block a row, and none of it."""

LONG = (5, 2112, 64)
"""The same, of rows that several programs share."""


class Watched:
    """The interpreter's memory, where only the arguments of a launch may be read and written."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory
        self.begins = self.ends = np.zeros(0, np.uint64)

    def of(self, arguments: tuple[Tensor | int, ...]) -> None:
        spans = {(a.data_ptr(), a.data_ptr() + a.nbytes) for a in arguments if isinstance(a, Tensor) and a.nbytes}
        ordered = np.array(sorted(spans), np.uint64)
        self.begins, self.ends = ordered[:, 0], ordered[:, 1]

    def check(self, addresses: Any, mask: Any, size: int) -> None:
        wanted = addresses[np.broadcast_to(mask, addresses.shape)].astype(np.uint64)
        place = np.searchsorted(self.begins, wanted, side="right") - 1
        outside = (place < 0) | (wanted + np.uint64(size) > self.ends[place])
        assert not outside.any(), f"{int(outside.sum())} addresses out of bounds"

    def load(self, addresses: Any, mask: Any, other: Any, dtype: Any) -> Any:
        self.check(addresses, mask, np.dtype(dtype).itemsize)
        return self.memory.load(addresses, mask, other, dtype)

    def store(self, addresses: Any, values: Any, mask: Any) -> Any:
        self.check(addresses, mask, values.dtype.itemsize)
        return self.memory.store(addresses, values, mask)

    def atomic_rmw(self, op: Any, addresses: Any, values: Any, mask: Any, order: Any) -> Any:
        self.check(addresses, mask, values.dtype.itemsize)
        return self.memory.atomic_rmw(op, addresses, values, mask, order)


def watch() -> None:
    """Check every address from here on."""
    watched = interpreter._interpreter = Watched(interpreter._interpreter)

    def launch(kernel: Any, grid: Any, arguments: Any, *others: Any) -> None:
        watched.of(arguments)
        launching.launch(kernel, grid, arguments, *others)

    for module in (codes_product, operands, part_products, sums):
        module.launch = launch


def plain(some: Product, inputs: Tensor) -> Tensor:
    """The product as plain torch computes it, part by part, in float64 but for the parts' weights."""
    eye = torch.eye(some.columns)
    matrix = sum((part.product(eye, some.rows) for part in some.parts), torch.zeros(some.columns, some.rows))
    return inputs.double() @ matrix.double()


def magnitudes(some: Product, inputs: Tensor) -> Tensor:
    eye = torch.eye(some.columns)
    matrices = [part.product(eye, some.rows).abs() for part in some.parts]
    return inputs.double().abs() @ sum(matrices, torch.zeros(some.columns, some.rows)).double()


def codes_part(levels: int, shape: tuple[int, int, int], variant: int, generator: torch.Generator) -> CodesPart:
    """Random bytes as codes, of which those of a damaged file may be more than any packer writes."""
    rows, columns, block = shape
    packed = torch.randint(0, 256, (packed_bytes(rows * columns, levels),), generator=generator).byte()
    values = torch.randn(levels, generator=generator)
    if variant % 2:
        values = (torch.arange(levels) - levels // 2) * 0.25
    scales = torch.randn(1 if variant % 3 == 2 else rows, -(-columns // block), generator=generator)
    return CodesPart(packed, columns, values, scales.bfloat16() if variant % 2 else scales, block)


def some_columns(count: int, columns: int, generator: torch.Generator) -> Columns:
    numbers = torch.randperm(columns, generator=generator)[:count].to(torch.int32)
    return Columns(numbers, torch.rand(count, generator=generator) + 0.5)


def shift_part(states: int, bits: int, rows: int, columns: int, block: int, generator: torch.Generator) -> ShiftPart:
    codes = torch.randint(0, 256, (columns, (rows * bits + 7) // 8), generator=generator).byte()
    places = torch.rand(states, generator=generator) * 16
    scales = torch.rand(rows, -(-columns // block), generator=generator) + 0.5
    factors = torch.rand(columns, generator=generator) + 0.5
    curve = torch.randn(17, generator=generator)
    return ShiftPart(codes, places, curve, bits, scales, block, Columns(None, factors))


def grid_part(rows: int, columns: int, generator: torch.Generator) -> GridPart:
    codes = torch.randint(-40, 40, (rows, columns), generator=generator).to(torch.int16)
    points = torch.linspace(-1.9, 1.9, 5)
    return GridPart(codes, points, torch.rand(rows, generator=generator), Columns())


def sparse_part(rows: int, columns: int, generator: torch.Generator) -> SparsePart:
    counts = torch.randint(0, 70, (rows,), generator=generator)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    numbers = torch.randint(0, columns, (int(starts[-1]),), generator=generator, dtype=torch.int32)
    return SparsePart(starts, numbers, torch.randn(len(numbers), generator=generator))


def products(generator: torch.Generator) -> Iterator[tuple[str, Product]]:
    """Every kind of part, every width and some other alphabets, odd shapes and blocks."""
    alphabets = [2**width for width in range(1, 9)] + [3, 11, 255]
    for index, (levels, shape) in enumerate(itertools.product(alphabets, SHAPES)):
        part = codes_part(levels, shape, index + levels, generator)
        yield f"{levels} levels, {shape}", Product(shape[0], shape[1], [part])
    for levels, variant in ((2, 1), (16, 0), (3, 0)):
        yield f"{levels} levels, {LONG}", Product(LONG[0], LONG[1], [codes_part(levels, LONG, variant, generator)])
    for states, bits in ((256, 1), (1024, 5), (4096, 2), (4096, 3), (16384, 4)):
        part = shift_part(states, bits, 21, 40, 16, generator)
        yield f"{states} states, {bits} bits", Product(21, 40, [part])
    yield "grid", Product(9, 130, [grid_part(9, 130, generator)])
    taken = some_columns(48, 80, generator)
    codes = dataclasses.replace(codes_part(16, (11, 48, 16), 1, generator), columns=taken)
    unscaled = dataclasses.replace(codes, columns=Columns(taken.numbers))
    yield "some columns", Product(11, 80, [unscaled])
    parts: list[Part] = [
        codes,
        dataclasses.replace(grid_part(11, 48, generator), columns=taken),
        dataclasses.replace(shift_part(256, 4, 11, 48, 48, generator), columns=taken),
        sparse_part(11, 80, generator),
        ZerosPart(torch.tensor([3, 79], dtype=torch.int32)),
    ]
    yield "all parts", Product(11, 80, parts)


def differences(name: str, some: Product, batch: int, dtype: torch.dtype, generator: torch.Generator) -> Iterator[str]:
    inputs = torch.randn(batch, some.columns, generator=generator).to(dtype)
    tolerance = TOLERANCE if dtype == torch.float32 else HALVES
    wanted, bound = plain(some, inputs), tolerance * magnitudes(some, inputs) + 1e-30
    if batch > 1:
        last = vars(some.parts[-1]).get("numbers", vars(some.parts[0].columns)["numbers"])
        inputs[-1, some.columns // 2 if last is None else int(last[0])] = torch.nan
        wanted[-1] = torch.nan
    found = some(inputs)
    if found.dtype != torch.float32 or found.shape != (batch, some.rows):
        yield f"{name}: {found.dtype} {tuple(found.shape)}"
    if not torch.equal(found.isnan(), wanted.isnan()):
        yield f"{name}, batch {batch}, {dtype}: NaN is lost or found"
    worst = ((found - wanted).abs() / bound).nan_to_num(0).max()
    if not worst <= 1:
        yield f"{name}, batch {batch}, {dtype}: {float(worst):.2g} times the tolerance"


def rows_differ(name: str, some: Product) -> Iterator[str]:
    matrix = plain(some, torch.eye(some.columns)).T
    index = torch.tensor([some.rows - 1, 0, some.rows, 1, -1])
    taken = some.take(index)
    assert taken is not None
    if taken.isnan().all(1).tolist() != [False, False, True, False, True]:
        yield f"{name}: rows that are not there"
    index = index[[0, 1, 3]]
    if not torch.allclose(taken[[0, 1, 3]].double(), matrix[index], rtol=1e-5, atol=1e-5):
        yield f"{name}: rows"
    dense = some.dense(1, 3, torch.bfloat16)
    if dense is None or not torch.allclose(dense.double(), matrix[1:3], rtol=1e-2, atol=1e-4):
        yield f"{name}: dense rows"


def all_differences(generator: torch.Generator) -> Iterator[str]:
    for index, (name, some) in enumerate(products(generator)):
        batches = (*BATCHES, MANY) if len(some.parts) > 1 else (BATCHES[index % 5], BATCHES[(index + 2) % 5])
        if some.columns == LONG[1]:
            batches = BATCHES[:2]
        elif index % 16 == 0:
            batches = (*batches, MANY)
        for nth, batch in enumerate(batches):
            dtype = (torch.float32, torch.bfloat16)[(index // 2 + nth) % 2]
            yield from differences(name, some, batch, dtype, generator)
        yield from rows_differ(name, some)


def check_ops(generator: torch.Generator) -> None:
    """The ops as torch sees them, and a whole product in one graph."""
    *_, (_, some) = products(generator)
    inputs = torch.randn(2, some.columns)
    onto = torch.zeros(2, some.rows)
    index = torch.tensor([1, 0])
    codes, grid, shift, sparse, zeros = some.parts
    assert isinstance(codes, CodesPart)
    assert isinstance(grid, GridPart)
    assert isinstance(shift, ShiftPart)
    assert isinstance(sparse, SparsePart)
    assert isinstance(zeros, ZerosPart)
    taken = codes.columns.numbers, codes.columns.factors
    packed = codes.packed, codes.values, codes.scales
    streams = shift.codes, shift._table, shift.scales
    single = sparse.starts, sparse.numbers, sparse.values
    ops = torch.ops.octavo
    for op, arguments in (
        (ops.codes_product, (inputs, *packed, *taken, onto, some.rows, codes.row_codes, codes.block, True)),
        (ops.grid_product, (inputs, grid.codes, grid.points, grid.row_step, *taken, None)),
        (ops.shift_product, (inputs, *streams, *taken, None, shift.bits, some.rows, shift.block)),
        (ops.sparse_product, (inputs, *single, onto)),
        (ops.zeros_product, (inputs, zeros.numbers, onto, some.rows)),
        (ops.codes_rows, (*packed, index, some.rows, codes.row_codes, 48, codes.block)),
        (ops.grid_rows, (grid.codes, grid.points, grid.row_step, index)),
        (ops.shift_rows, (*streams, index, shift.bits, some.rows, shift.block)),
        (ops.sparse_rows, (*single, index, some.columns)),
    ):
        torch.library.opcheck(op.default, arguments)
    # The first call looks at what the tensors hold, which no graph can.
    expected = some(inputs)
    whole = torch.compile(some, backend="aot_eager", fullgraph=True)
    assert torch.equal(whole(inputs), expected)


if __name__ == "__main__":
    torch.set_num_threads(1)
    product.products_on_gpu = backends.products_on_gpu = lambda tensor: True
    product.plain_backend = lambda tensor: reference
    watch()
    randomness = torch.Generator().manual_seed(0)
    if "ops" in sys.argv:
        check_ops(randomness)
        print("checked")
    else:
        for line in all_differences(randomness):
            print(line)
        print("compared")
