"""The GPU kernels against the reference: under Triton's interpreter anywhere, compiled where there is a GPU."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from octavo import kernels
from octavo.formats import Format
from octavo.formats.product import fused
from octavo.formats.tensor import QuantizedTensor

SHAPES = [(3, 77, 64), (2, 301, 1000), (7, 9, 3), (1, 2048, 32)]


needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed: install octavo[gpu]")


def output_of(program: str, *arguments: str, **environment: str) -> str:
    """What one of the programs beside this file prints, or says where it fails."""
    path = Path(__file__).with_name(program)
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, path, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    return done.stdout or done.stderr


@needs_triton
def test_the_interpreter_agrees_bit_for_bit() -> None:
    assert output_of("interpreted.py") == "compared\n"


@needs_triton
def test_interpreted_products_agree_with_plain_torch() -> None:
    assert output_of("interpreted_products.py") == "compared\n"


@needs_triton
def test_ops_of_products_are_what_graphs_expect() -> None:
    assert output_of("interpreted_products.py", "ops") == "checked\n"


@needs_triton
@pytest.mark.skipif(platform.machine() != "x86_64", reason="Triton brings its assembler along for x86-64")
def test_every_product_compiles_for_an_h100(tmp_path: Path) -> None:
    kernels_named = "arrange few grid grid_rows many rows shift shift_rows sparse sparse_rows sum tile whole zeros"
    expected = " ".join(f"{name}_kernel" for name in kernels_named.split())
    assert output_of("compiled_products.py", TRITON_CACHE_DIR=str(tmp_path)) == f"compiled {expected}\n"


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 2, 4, 16, 64, 200])
@pytest.mark.parametrize("text", ["int@4 b64 absmax:bf16", "lloyd@1 b64 absmean:bf16", "trellis@3 channel rms:u8"])
def test_products_on_a_gpu(text: str, batch: int, generator: torch.Generator) -> None:
    quantized = Format.parse(text).quantize(torch.randn(192, 256, generator=generator))
    there = QuantizedTensor(quantized.format, quantized.shape, {n: p.cuda() for n, p in quantized.parts.items()})
    inputs = torch.randn(batch, 256, generator=generator).bfloat16()
    expected, product = inputs.float() @ quantized.dequantize().T, fused(there)
    assert product is not None
    found = product(inputs.cuda()).cpu()
    assert (found - expected).square().mean().sqrt() <= 5e-3 * expected.square().mean().sqrt()
    if batch <= 64:
        assert (found - expected).square().mean().sqrt() <= 1e-4 * expected.square().mean().sqrt()


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
