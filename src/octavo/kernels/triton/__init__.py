"""Quantize-and-pack and unpack-and-dequantize on a GPU, for alphabets of 2, 4, ... 256 levels.

Imported only when a tensor lies on a GPU (or by tests under TRITON_INTERPRET=1): importing triton takes a second.
"""

# A kernel is launched by subscripting it with its grid, which its type does not show.
# pyright: reportIndexIssue=false, reportArgumentType=false

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from octavo.kernels.layout import packed_bytes
from octavo.kernels.triton.kernels import dequantize_kernel, quantize_kernel

# Codes a program takes; a multiple of every group size below.
_TILE = 1024

# Beyond this many weights their indices need 64 bits.
_INT32 = 2**31 - 1 - _TILE


def quantize_pack(weights: Tensor, scales: Tensor, midpoints: Tensor, block: int, levels: int) -> Tensor:
    rows, cols = weights.shape
    count = rows * cols
    packed = torch.empty(packed_bytes(count, levels), dtype=torch.uint8, device=weights.device)
    if count == 0:
        return packed
    # One infinite midpoint more: a binary search over a power of two never reads past the table.
    table = torch.cat([midpoints, midpoints.new_full((levels - midpoints.numel(),), torch.inf)])
    width, digits, size = _group(levels)
    with _on(weights):
        quantize_kernel[(-(-count // _TILE),)](
            weights,
            scales,
            table,
            packed,
            count,
            packed.numel(),
            cols,
            min(block, cols),
            0 if scales.shape[0] == 1 else scales.shape[1],
            WIDTH=width,
            DIGITS=digits,
            BYTES=size,
            PADDED=_padded(size),
            GROUPS=_TILE // digits,
            WIDE=count > _INT32,
        )
    return packed


def unpack_dequantize(
    packed: Tensor, scales: Tensor, codebook: Tensor, block: int, rows: int, cols: int, dtype: torch.dtype
) -> Tensor:
    count = rows * cols
    values = torch.empty(rows, cols, dtype=dtype, device=packed.device)
    if count == 0:
        return values
    width, digits, size = _group(codebook.numel())
    narrow = dtype == torch.bfloat16
    with _on(packed):
        dequantize_kernel[(-(-count // _TILE),)](
            packed,
            scales,
            codebook,
            values.view(torch.int16) if narrow else values,
            count,
            packed.numel(),
            cols,
            min(block, cols),
            0 if scales.shape[0] == 1 else scales.shape[1],
            WIDTH=width,
            DIGITS=digits,
            BYTES=size,
            PADDED=_padded(size),
            GROUPS=_TILE // digits,
            WIDE=count > _INT32,
            NARROW=narrow,
        )
    return values


def _group(levels: int) -> tuple[int, int, int]:
    """Bits a code, codes and bytes of the smallest run of codes that fills whole bytes."""
    width = levels.bit_length() - 1
    return (width, 8 // width, 1) if width in (1, 2, 4, 8) else (width, 8, width)


def _padded(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _on(tensor: Tensor) -> AbstractContextManager[object]:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
