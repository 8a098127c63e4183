"""Quantizing to a codebook: the reference against its own definition, and C++ against the reference, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from octavo import kernels
from octavo.kernels import cpu, reference
from octavo.kernels.ops import midpoints_of

needs_extension = pytest.mark.skipif(bool(cpu.MISSING), reason=f"the C++ kernels are not built: {cpu.MISSING}")

LEVELS = [2, 3, 4, 7, 8, 11, 15, 16, 17, 31, 32, 33, 48, 64, 100, 128, 200, 255, 256]
# Odd rows, blocks that leave a short one, one block a row, blocks below a vector, and block ends off the byte grid.
SHAPES = [(3, 77, 64), (5, 33, 8), (2, 301, 1000), (7, 9, 3), (1, 1, 1), (4, 256, 32), (2, 40, 2**62)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def problem(
    levels: int, rows: int, cols: int, block: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, signed scales (one of them zero) and a codebook; some weights lie exactly on a midpoint."""
    codebook = torch.randn(levels, generator=generator).sort().values
    shared = levels % 3 == 0
    scales = torch.randn(1 if shared else rows, -(-cols // block), generator=generator)
    scales[0, 0] = 0.5
    scales[-1, -1] = 0.0 if scales.numel() > 1 else 0.5
    weights = torch.randn(rows, cols, generator=generator)
    weights[0, 0] = midpoints_of(codebook)[levels // 2 - 1] * scales[0, 0]
    return weights.to(dtype), scales, codebook


def counted(weights: Tensor, scales: Tensor, codebook: Tensor, block: int) -> Tensor:
    """The definition, spelled out: weights x midpoints comparisons."""
    rows, cols = weights.shape
    every = scales.expand(rows, -1).repeat_interleave(min(block, cols), dim=1)[:, :cols].unsqueeze(-1)
    values = weights.float().unsqueeze(-1)
    thresholds = midpoints_of(codebook) * every
    return torch.where(every < 0, values < thresholds, values > thresholds).sum(-1).to(torch.uint8)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize(("rows", "cols", "block"), SHAPES)
def test_the_reference_counts_midpoints_below(
    levels: int, rows: int, cols: int, block: int, generator: torch.Generator
) -> None:
    weights, scales, codebook = problem(levels, rows, cols, block, torch.float32, generator)
    codes = reference.quantize(weights, scales, midpoints_of(codebook), block)
    assert torch.equal(codes, counted(weights, scales, codebook, block))


@needs_extension
@pytest.mark.parametrize("portable", [False, True], ids=["fastest", "portable"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("levels", LEVELS)
def test_cpp_agrees_bit_for_bit(levels: int, dtype: torch.dtype, portable: bool, generator: torch.Generator) -> None:
    for rows, cols, block in SHAPES:
        weights, scales, codebook = problem(levels, rows, cols, block, dtype, generator)
        midpoints = midpoints_of(codebook)
        packed = reference.quantize_pack(weights, scales, midpoints, block, levels)
        assert torch.equal(cpu.quantize_pack(weights, scales, midpoints, block, levels, portable), packed)
        for out in (torch.float32, torch.bfloat16):
            expected = reference.unpack_dequantize(packed, scales, codebook, block, rows, cols, out)
            values = cpu.unpack_dequantize(packed, scales, codebook, block, rows, cols, out, portable)
            # As integers, so that the signs of zeros count.
            assert torch.equal(values.view(torch.int16), expected.view(torch.int16))


@pytest.mark.parametrize("levels", [3, 16, 256])
def test_codes_and_packed_codes_are_the_same(levels: int, generator: torch.Generator) -> None:
    weights, scales, codebook = problem(levels, 5, 33, 8, torch.float32, generator)
    codes = kernels.quantize(weights, scales, codebook, 8)
    packed = kernels.quantize_pack(weights, scales, codebook, 8)
    assert torch.equal(kernels.unpack(packed, levels, 165), codes.flatten())


def test_a_midpoint_takes_the_lower_index_also_under_a_negative_scale() -> None:
    codebook = torch.tensor([-1.0, 0.0, 1.0])
    weights = torch.tensor([[-0.5, 0.5]])
    assert kernels.quantize(weights, torch.tensor([[1.0]]), codebook, 2).tolist() == [[0, 1]]
    assert kernels.quantize(weights, torch.tensor([[-1.0]]), codebook, 2).tolist() == [[1, 0]]


def test_values_are_entry_times_scale() -> None:
    codebook = torch.tensor([-1.0, 0.25, 1.0])
    scales = torch.tensor([[2.0, -4.0]])
    packed = kernels.quantize_pack(torch.tensor([[-2.0, 0.4, 4.0]]), scales, codebook, 2)
    assert kernels.unpack_dequantize(packed, scales, codebook, 2, 1, 3).tolist() == [[-2.0, 0.5, 4.0]]


def test_every_half_widens_exactly() -> None:
    """All 2**16 halves, finite and infinite, against a codebook that splits at zero, through both C++ paths."""
    halves = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16)
    halves = halves[~halves.isnan()].view(1, -1)
    midpoints = torch.tensor([-1000.0, -1e-7, 0.0, 6e-8, 1.0005, 60000.0])
    ones = torch.ones(1, 1)
    expected = reference.quantize(halves, ones, midpoints, halves.shape[1])
    for portable in (False, True) if not cpu.MISSING else ():
        packed = cpu.quantize_pack(halves, ones, midpoints, halves.shape[1], 256, portable)
        assert torch.equal(packed.view(expected.shape), expected)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@needs_extension
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("levels", [8, 11])
def test_threads_change_nothing(levels: int, generator: torch.Generator) -> None:
    rows, cols, block = 301, 1003, 64
    weights, scales, codebook = problem(levels, rows, cols, block, torch.float32, generator)
    packed = reference.quantize_pack(weights, scales, midpoints_of(codebook), block, levels)
    assert torch.equal(kernels.quantize_pack(weights, scales, codebook, block), packed)
    expected = reference.unpack_dequantize(packed, scales, codebook, block, rows, cols, torch.float32)
    assert torch.equal(kernels.unpack_dequantize(packed, scales, codebook, block, rows, cols), expected)
    assert torch.equal(kernels.pack(kernels.unpack(packed, levels, rows * cols), levels), packed)
