"""Products with packed weights in plain torch: dequantize, then multiply, in float32."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from octavo.kernels.reference.codebook import unpack_dequantize
from octavo.kernels.reference.shift_trellis import shift_decode


def linear(
    inputs: Float[Tensor, "batch cols"],
    packed: UInt8[Tensor, " bytes"],
    scales: Float32[Tensor, "_ _"],
    codebook: Float32[Tensor, " levels"],
    block: int,
    rows: int,
) -> Float32[Tensor, "batch {rows}"]:
    """Inputs times the transpose of what packed codes, scales and a codebook stand for."""
    cols = inputs.shape[1]
    return inputs.float() @ unpack_dequantize(packed, scales, codebook, block, rows, cols, torch.float32).T


def shift_linear(
    inputs: Float[Tensor, "batch columns"],
    codes: UInt8[Tensor, "columns bytes"],
    table: Float32[Tensor, " states"],
    bits: int,
    rows: int,
    scales: Float32[Tensor, "_ blocks"],
    block: int,
    column: Float32[Tensor, " columns"],
) -> Float32[Tensor, "batch {rows}"]:
    """Inputs times the transpose of what the streams of a bit-shift trellis stand for."""
    return inputs.float() @ shift_decode(codes, table, bits, rows, scales, block, column).T
