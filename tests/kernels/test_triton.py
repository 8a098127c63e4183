"""The GPU kernels against the reference: under Triton's interpreter anywhere, compiled where there is a GPU."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from octavo import kernels

SHAPES = [(3, 77, 64), (2, 301, 1000), (7, 9, 3), (1, 2048, 32)]


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed: pip install triton")
def test_the_interpreter_agrees_bit_for_bit() -> None:
    program = Path(__file__).with_name("interpreted.py")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert done.stdout == "compared\n", done.stderr


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
