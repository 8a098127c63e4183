"""The two GPU kernels. A program takes GROUPS runs of DIGITS codes, each run filling BYTES whole bytes.

Products are single float32 multiplications and feed comparisons or stores, so nothing can be fused and results equal
octavo.kernels.reference bit for bit.
"""

# Triton reads names of constants in capitals and pointers untyped.
# pyright: reportMissingImports=false, reportArgumentType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _places(count, cols, block, scale_stride, DIGITS: tl.constexpr, GROUPS: tl.constexpr, WIDE: tl.constexpr):
    """Index of every code of this program, whether it exists, and the index of its scale: all [GROUPS, DIGITS]."""
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    group = program * GROUPS + tl.arange(0, GROUPS)
    index = group[:, None] * DIGITS + tl.arange(0, DIGITS)[None, :]
    row = index // cols
    scale = row * scale_stride + (index - row * cols) // block
    return group, index, index < count, scale


@triton.jit
def quantize_kernel(
    weights,
    scales,
    midpoints,
    packed,
    count,
    size,
    cols,
    block,
    scale_stride,
    WIDTH: tl.constexpr,
    DIGITS: tl.constexpr,
    BYTES: tl.constexpr,
    PADDED: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDE: tl.constexpr,
):
    group, index, exists, place = _places(count, cols, block, scale_stride, DIGITS, GROUPS, WIDE)
    scale = tl.load(scales + place, mask=exists, other=0.0)
    value = tl.load(weights + index, mask=exists, other=0.0).to(tl.float32)
    value = tl.where(scale < 0, -value, value)
    scale = tl.abs(scale)
    code = tl.zeros([GROUPS, DIGITS], dtype=tl.int32)
    for bit in tl.static_range(WIDTH):
        step: tl.constexpr = 1 << (WIDTH - 1 - bit)
        probe = tl.load(midpoints + code + (step - 1)) * scale
        code += tl.where(value > probe, step, 0)
    code = tl.where(exists, code, 0)
    number = tl.sum(code.to(tl.int64) << (WIDTH * tl.arange(0, DIGITS))[None, :], axis=1)
    byte = tl.arange(0, PADDED)[None, :]
    target = group[:, None] * BYTES + byte
    part = (number[:, None] >> (8 * byte)) & 255
    tl.store(packed + target, part.to(tl.uint8), mask=(byte < BYTES) & (target < size))


@triton.jit
def dequantize_kernel(
    packed,
    scales,
    codebook,
    values,
    count,
    size,
    cols,
    block,
    scale_stride,
    WIDTH: tl.constexpr,
    DIGITS: tl.constexpr,
    BYTES: tl.constexpr,
    PADDED: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDE: tl.constexpr,
    NARROW: tl.constexpr,
):
    group, index, exists, place = _places(count, cols, block, scale_stride, DIGITS, GROUPS, WIDE)
    byte = tl.arange(0, PADDED)[None, :]
    source = group[:, None] * BYTES + byte
    part = tl.load(packed + source, mask=(byte < BYTES) & (source < size), other=0)
    number = tl.sum(part.to(tl.int64) << (8 * byte), axis=1)
    code = (number[:, None] >> (WIDTH * tl.arange(0, DIGITS))[None, :]) & ((1 << WIDTH) - 1)
    scale = tl.load(scales + place, mask=exists, other=0.0)
    value = tl.load(codebook + code) * scale
    if NARROW:
        # To the nearest, ties to even, in integers: Triton's interpreter rounds ties away from zero.
        bits = value.to(tl.int32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        rounded = tl.where(value == value, rounded, 0x7FC0)
        tl.store(values + index, rounded.to(tl.int16), mask=exists)
    else:
        tl.store(values + index, value, mask=exists)
