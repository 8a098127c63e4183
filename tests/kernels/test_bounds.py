"""The binding checks every size itself: no call from Python can read or write out of bounds."""

from __future__ import annotations

from collections.abc import Callable

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


def test_the_calls_pass_as_they_stand() -> None:
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
