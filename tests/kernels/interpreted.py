"""Run by test_triton.py as a program of its own: the GPU kernels under Triton's interpreter against the reference.

Triton decides when it is imported whether it interprets, and its interpreter runs a kernel's source in the globals of
the function it is given, which must not be the wrapper of jaxtyping's import hook. Prints what differs.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import torch

from octavo.kernels import reference, triton
from octavo.kernels.ops import midpoints_of

SHAPES = [(3, 77, 64), (2, 301, 1000), (7, 9, 3), (1, 2048, 32)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def differences(width: int, dtype: torch.dtype, shape: tuple[int, int, int], generator: torch.Generator) -> list[str]:
    rows, cols, block = shape
    levels = 1 << width
    weights = torch.randn(rows, cols, generator=generator).to(dtype)
    codebook = torch.randn(levels, generator=generator).sort().values
    scales = torch.randn(1 if width % 3 == 0 else rows, -(-cols // block), generator=generator)
    scales[0, 0] = 0.0
    midpoints = midpoints_of(codebook)
    packed = reference.quantize_pack(weights, scales, midpoints, block, levels)
    found = []
    if not torch.equal(triton.quantize_pack(weights, scales, midpoints, block, levels), packed):
        found.append(f"codes of {levels} levels, {dtype}, {shape}")
    for out in (torch.float32, torch.bfloat16):
        expected = reference.unpack_dequantize(packed, scales, codebook, block, rows, cols, out)
        values = triton.unpack_dequantize(packed, scales, codebook, block, rows, cols, out)
        # As integers, so that the signs of zeros count.
        if not torch.equal(values.view(torch.int16), expected.view(torch.int16)):
            found.append(f"values of {levels} levels as {out}, {shape}")
    return found


if __name__ == "__main__":
    randomness = torch.Generator().manual_seed(0)
    for width in range(1, 9):
        for index, shape in enumerate(SHAPES):
            for line in differences(width, DTYPES[(width + index) % 3], shape, randomness):
                print(line)
    print("compared")
