"""The GPU kernels against the reference: under Triton's interpreter anywhere, compiled where there is a GPU."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from octavo import kernels
from octavo.kernels import reference
from octavo.kernels.ops import midpoints_of

SHAPES = [(3, 77, 64), (2, 301, 1000), (7, 9, 3), (1, 2048, 32)]


@pytest.fixture(scope="module")
def interpreted() -> Iterator[ModuleType]:
    pytest.importorskip("triton", reason="triton is not installed: pip install triton")
    with pytest.MonkeyPatch.context() as patch:
        # Read when a kernel is defined, hence before the first import.
        patch.setenv("TRITON_INTERPRET", "1")
        # The interpreter runs a kernel's source in the globals of what it is given, which must not be the wrapper
        # that jaxtyping's import hook puts around every function.
        plain = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("jaxtyping")]
        patch.setattr(sys, "meta_path", plain)
        yield importlib.import_module("octavo.kernels.triton")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are tested compiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("width", range(1, 9))
def test_the_interpreter_agrees_bit_for_bit(
    width: int, dtype: torch.dtype, interpreted: ModuleType, generator: torch.Generator
) -> None:
    levels = 1 << width
    for rows, cols, block in SHAPES:
        weights = torch.randn(rows, cols, generator=generator).to(dtype)
        codebook = torch.randn(levels, generator=generator).sort().values
        scales = torch.randn(1 if width % 3 == 0 else rows, -(-cols // block), generator=generator)
        scales[0, 0] = 0.0
        midpoints = midpoints_of(codebook)
        packed = reference.quantize_pack(weights, scales, midpoints, block, levels)
        assert torch.equal(interpreted.quantize_pack(weights, scales, midpoints, block, levels), packed)
        for out in (torch.float32, torch.bfloat16):
            expected = reference.unpack_dequantize(packed, scales, codebook, block, rows, cols, out)
            values = interpreted.unpack_dequantize(packed, scales, codebook, block, rows, cols, out)
            assert torch.equal(values.view(torch.int16), expected.view(torch.int16))


@pytest.mark.gpu
@pytest.mark.parametrize("levels", [2, 3, 8, 11, 16, 64, 256])
def test_a_gpu_agrees_with_the_cpu_bit_for_bit(levels: int, generator: torch.Generator) -> None:
    for rows, cols, block in SHAPES:
        weights = torch.randn(rows, cols, generator=generator)
        codebook = torch.randn(levels, generator=generator).sort().values
        scales = torch.randn(rows, -(-cols // block), generator=generator)
        packed = kernels.quantize_pack(weights, scales, codebook, block)
        there = scales.cuda(), codebook.cuda()
        assert torch.equal(kernels.quantize_pack(weights.cuda(), *there, block).cpu(), packed)
        values = kernels.unpack_dequantize(packed.cuda(), *there, block, rows, cols)
        assert torch.equal(values.cpu(), kernels.unpack_dequantize(packed, scales, codebook, block, rows, cols))
