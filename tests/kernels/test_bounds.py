"""The binding checks every size itself: no call from Python can read or write out of bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from octavo.kernels import cpu
from octavo.kernels.layout import packed_bytes

pytestmark = pytest.mark.skipif(bool(cpu.MISSING), reason=f"the C++ kernels are not built: {cpu.MISSING}")

native = cpu._native


def raw(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.uint8)


def quantize(
    weights: Tensor | None = None,
    scales: Tensor | None = None,
    midpoints: Tensor | None = None,
    block: int = 4,
    levels: int = 4,
    out: Tensor | None = None,
) -> None:
    native.quantize_pack(
        torch.zeros(3, 10) if weights is None else weights,
        torch.ones(3, 3) if scales is None else scales,
        torch.zeros(3) if midpoints is None else midpoints,
        block,
        levels,
        raw(8) if out is None else out,
        1,
    )


def dequantize(
    packed: Tensor | None = None, scales: Tensor | None = None, block: int = 4, out: Tensor | None = None
) -> None:
    native.unpack_dequantize(
        raw(8) if packed is None else packed,
        torch.ones(3, 3) if scales is None else scales,
        torch.zeros(4),
        block,
        torch.empty(3, 10) if out is None else out,
        1,
    )


def separable(
    codes: Tensor | None = None, rows: int = 3, columns: int = 10, points: int = 3, out: Tensor | None = None
) -> None:
    native.separable_dequantize(
        torch.zeros(3, 10, dtype=torch.int8) if codes is None else codes,
        torch.ones(rows),
        torch.ones(columns),
        torch.zeros(points),
        torch.empty(3, 10) if out is None else out,
        1,
    )


def ints(*values: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def codes_part(
    packed: Tensor | None = None,
    row_codes: int = 10,
    scales: Tensor | None = None,
    block: int = 4,
    columns: Tensor | None = None,
    factors: Tensor | None = None,
) -> None:
    product = native.Product(3, 10)
    found = raw(8) if packed is None else packed, row_codes, torch.zeros(4)
    product.add_codes(*found, torch.ones(3, 3) if scales is None else scales, block, columns, factors)


def shift_part(
    streams: Tensor | None = None,
    states: int = 256,
    place: float = 0.0,
    bits: int = 2,
    scales: Tensor | None = None,
    columns: Tensor | None = None,
    mixer: tuple[int, int] | None = (8, 5),
) -> None:
    product = native.Product(3, 10)
    found = torch.zeros(10, 1, dtype=torch.uint8) if streams is None else streams
    table = torch.full((states,), place), torch.zeros(17)
    product.add_shift(found, *table, bits, mixer, torch.ones(3, 1) if scales is None else scales, 10, columns, None)


def sparse_part(starts: Tensor | None = None, columns: Tensor | None = None, values: int = 4) -> None:
    product = native.Product(3, 10)
    found = ints(0, 1, 3, 4, dtype=torch.int64) if starts is None else starts
    product.add_sparse(found, ints(0, 5, 9, 9) if columns is None else columns, torch.ones(values))


def grid_part(shape: tuple[int, int] = (3, 10), points: int = 3, rows: int = 3) -> None:
    product = native.Product(3, 10)
    product.add_grid(torch.zeros(shape, dtype=torch.int16), torch.zeros(points), torch.ones(rows), None, None)


def made() -> Any:
    product = native.Product(3, 10)
    product.add_codes(raw(8), 10, torch.zeros(4), torch.ones(3, 3), 4, None, None)
    return product


def bound(
    inputs: tuple[int, int] = (2, 10),
    out: tuple[int, int] = (2, 6),
    bias: int = 6,
    arithmetic: str = "int8",
    rows: int = 2,
) -> None:
    buffers = torch.zeros(inputs), torch.zeros(out)
    native.BoundProducts([made(), made()], *buffers, torch.zeros(bias), arithmetic)(rows, 1)


def rows(index: tuple[int, ...] = (2, 0), out: tuple[int, int] = (2, 10)) -> None:
    made().rows(ints(*index, dtype=torch.int64), torch.zeros(out))


def lookup(index: tuple[int, ...] = (2, 0), out: tuple[int, int] = (2, 10), rows: int = 2) -> None:
    native.Lookup(made(), ints(*index, dtype=torch.int64), torch.zeros(out))(rows, 1)


def dense(begin: int = 1, out: tuple[int, int] = (2, 10), dtype: torch.dtype = torch.bfloat16) -> None:
    made().dense(begin, torch.zeros(out, dtype=dtype), 1)


def multiply(
    inputs: tuple[int, int] = (2, 10), out: tuple[int, int] = (2, 3), dtype: torch.dtype = torch.float32
) -> None:
    made().multiply(torch.zeros(inputs, dtype=dtype), torch.zeros(out), 1, "exact")


def test_the_calls_pass_as_they_stand() -> None:
    codes_part()
    codes_part(scales=torch.ones(1, 1), block=4, columns=ints(9, 0, 0, 1), factors=torch.ones(4))
    shift_part()
    sparse_part()
    grid_part()
    multiply()
    multiply(dtype=torch.bfloat16)
    bound()
    bound(rows=0)
    lookup()
    rows()
    dense()
    dense(begin=3, out=(0, 10))
    quantize()
    dequantize()
    separable()


@pytest.mark.parametrize(
    "call",
    [
        lambda: native.pack(raw(10), 1, raw(10), 1),
        lambda: native.pack(raw(10), 257, raw(10), 1),
        lambda: native.pack(raw(10), 16, raw(4), 1),
        lambda: native.unpack(raw(4), 16, raw(10), 1),
        lambda: native.unpack(raw(6), 16, raw(10), 1),
        lambda: quantize(out=raw(7)),
        lambda: quantize(block=0),
        lambda: quantize(block=-4),
        lambda: quantize(scales=torch.ones(2, 3)),
        lambda: quantize(scales=torch.ones(3, 2)),
        lambda: quantize(midpoints=torch.zeros(4)),
        lambda: quantize(midpoints=torch.zeros(0)),
        lambda: quantize(weights=torch.zeros(3, 10, dtype=torch.float64)),
        lambda: dequantize(packed=raw(7)),
        lambda: dequantize(scales=torch.ones(3, 4)),
        lambda: dequantize(out=torch.empty(3, 10, dtype=torch.float16)),
        lambda: separable(rows=2),
        lambda: separable(columns=11),
        lambda: separable(points=4),
        lambda: separable(out=torch.empty(3, 9)),
        lambda: separable(codes=torch.zeros(3, 10, dtype=torch.int32)),
        lambda: native.Product(0, 10),
        lambda: native.Product(3, 2**40),
        lambda: codes_part(packed=raw(7)),
        lambda: codes_part(row_codes=9),
        lambda: codes_part(row_codes=2**60),
        lambda: codes_part(scales=torch.ones(3, 2)),
        lambda: codes_part(scales=torch.ones(2, 3)),
        lambda: codes_part(scales=torch.ones(3, 3, dtype=torch.float16)),
        lambda: codes_part(block=0),
        lambda: codes_part(scales=torch.ones(1, 1), columns=ints(0, 10)),
        lambda: codes_part(scales=torch.ones(1, 1), columns=ints(0, -1)),
        lambda: codes_part(scales=torch.ones(1, 1), columns=ints()),
        lambda: codes_part(factors=torch.ones(9)),
        lambda: shift_part(streams=torch.zeros(9, 1, dtype=torch.uint8)),
        lambda: shift_part(bits=3),
        lambda: shift_part(states=255),
        lambda: shift_part(place=16.5),
        lambda: shift_part(place=-0.5),
        lambda: shift_part(place=torch.nan),
        lambda: shift_part(scales=torch.ones(2, 1)),
        lambda: shift_part(columns=ints(*range(1, 11))),
        lambda: sparse_part(starts=ints(0, 3, 1, 4, dtype=torch.int64)),
        lambda: sparse_part(starts=ints(1, 1, 3, 4, dtype=torch.int64)),
        lambda: sparse_part(starts=ints(0, 1, 4, dtype=torch.int64)),
        lambda: sparse_part(columns=ints(0, 5, 10, 9)),
        lambda: sparse_part(values=5),
        lambda: grid_part(shape=(3, 9)),
        lambda: grid_part(points=4),
        lambda: grid_part(rows=4),
        lambda: multiply(inputs=(2, 9)),
        lambda: multiply(out=(1, 3)),
        lambda: multiply(dtype=torch.float16),
        lambda: shift_part(mixer=(0, 5)),
        lambda: shift_part(mixer=(9, 5)),
        lambda: shift_part(mixer=(8, 4)),
        lambda: bound(inputs=(2, 9)),
        lambda: bound(inputs=(3, 10)),
        lambda: bound(out=(2, 5)),
        lambda: bound(out=(2, 7)),
        lambda: lookup(index=(2, 3)),
        lambda: lookup(index=(-1, 0)),
        lambda: lookup(out=(2, 9)),
        lambda: lookup(out=(3, 10)),
        lambda: lookup(rows=3),
        lambda: bound(bias=4),
        lambda: bound(arithmetic="int4"),
        lambda: bound(rows=3),
        lambda: bound(rows=-1),
        lambda: rows(index=(3, 0)),
        lambda: rows(index=(-1, 0)),
        lambda: rows(out=(1, 10)),
        lambda: dense(begin=2),
        lambda: dense(begin=2**60),
        lambda: dense(out=(2, 9)),
        lambda: dense(dtype=torch.float16),
    ],
)
def test_sizes_that_do_not_fit_are_refused(call: Callable[[], None]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: quantize(weights=torch.zeros(10, 3).T),
        lambda: quantize(scales=torch.ones(3, 3, dtype=torch.float64)),
        lambda: quantize(out=torch.zeros(8, dtype=torch.int8)),
        lambda: dequantize(out=torch.empty(10, 3).T),
    ],
)
def test_other_layouts_and_dtypes_are_refused(call: Callable[[], None]) -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        call()


def test_both_languages_lay_out_every_alphabet_alike() -> None:
    for levels in range(2, 257):
        for count in (*range(70), 1000):
            assert native.packed_bytes(count, levels) == packed_bytes(count, levels)
