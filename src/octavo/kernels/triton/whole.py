"""A kernel for equally spaced values and one or two inputs of bfloat16: sums of whole numbers, four to an instruction.

Decoding a weight and multiplying it in float32 takes at least three instructions, which at 1 or 2 bits a weight is more
than a GPU has time for while it reads them. So inputs become whole numbers of 15 bits, of the largest exponent among
those that meet a word of codes: all that are within 2^6 of it exactly, smaller ones to 2^-14 of it. A number is a byte
times 128 and seven bits more. Of a word of codes those at the same place of its four bytes are taken at once: a shift,
a mask and two products of four bytes for four weights.
"""

# pyright: reportMissingImports=false, reportArgumentType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportAssignmentType=false

from __future__ import annotations

import triton
import triton.language as tl

from octavo.kernels.triton.decoding import store_sums


@triton.jit
def _four_products(signed, unsigned, INTERPRETED: tl.constexpr):
    """Sums of the products of four signed with four unsigned bytes; the interpreter knows no assembler."""
    if INTERPRETED:
        total = (signed << 24 >> 24) * (unsigned & 255)
        for byte in tl.static_range(1, 4):
            total += (signed << (24 - 8 * byte) >> 24) * ((unsigned >> (8 * byte)) & 255)
    else:
        total = tl.inline_asm_elementwise(
            "dp4a.s32.u32 $0, $1, $2, 0;", "=r,r,r", [signed, unsigned], dtype=tl.int32, is_pure=True, pack=1
        )
    return total


# See codes.few_kernel for what must not be known of addresses.
@triton.jit(do_not_specialize_on_alignment=["packed"])
def whole_kernel(
    inputs,
    packed,
    values,
    scales,
    numbers,
    onto,
    out,
    batch,
    columns,
    rows,
    count,
    words,
    tiles,
    block,
    LEVELS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROW_WORDS: tl.constexpr,
    SCALE_STRIDE: tl.constexpr,
    EVEN: tl.constexpr,
    NUMBERS: tl.constexpr,
    ONTO: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BATCH: tl.constexpr,
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Strides are constants, so that one address and offsets within instructions reach all rows of a program.

    EVEN: all rows and words are there.
    """
    PLACES: tl.constexpr = 8 // WIDTH
    MASK: tl.constexpr = ((LEVELS - 1) * 0x01010101 + 2**31) % 2**32 - 2**31
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    split = tl.program_id(1)
    vector = tl.arange(0, BATCH)
    byte = tl.arange(0, 4)
    place = tl.arange(0, PLACES)
    lowest = tl.load(values)
    slope = tl.load(values + 1) - lowest
    codes_of_row = packed + row.to(tl.int64) * ROW_WORDS
    scales_of_row = scales + row.to(tl.int64) * SCALE_STRIDE
    sums = tl.zeros([BATCH, ROWS, WORDS], tl.float32)
    for tile in range(split * tiles, split * tiles + tiles):
        word = tile * WORDS + tl.arange(0, WORDS)
        codes_at = codes_of_row[:, None] + word[None, :]
        scales_at = scales_of_row[:, None] + (word * (4 * PLACES) // block)[None, :]
        if EVEN:
            code = tl.load(codes_at)
            scale = tl.load(scales_at).to(tl.float32)
        else:
            there = (row < rows)[:, None] & (word < words)[None, :]
            code = tl.load(codes_at, mask=there, other=0)
            scale = tl.load(scales_at, mask=there, other=0.0).to(tl.float32)
        # [batch, bytes of a word, places in a byte, words]
        column = word[None, None, :] * (4 * PLACES) + byte[:, None, None] * PLACES + place[None, :, None]
        column = column[None, :, :, :]
        exists = (column < count) & (vector < batch)[:, None, None, None]
        if NUMBERS:
            column = tl.load(numbers + column, mask=column < count, other=0)
        given = tl.load(inputs + vector[:, None, None, None] * columns + column, mask=exists, other=0.0).to(tl.float32)
        # What is no number has the largest exponent of all, and as bits the largest value.
        bits = given.to(tl.int32, bitcast=True) & 0x7FFFFFFF
        exponent = tl.max(tl.max(bits, 1), 1) >> 23
        exponent = tl.maximum(exponent, 14)
        unit = tl.where(exponent == 255, float("nan"), ((exponent - 13) << 23).to(tl.float32, bitcast=True))
        factor = ((267 - exponent) << 23).to(tl.float32, bitcast=True)
        # To the nearest whole number: the last bits of 1.5 · 2^23 and more are units.
        near = given * factor[:, None, None, :] + 12582912.0
        number = near.to(tl.int32, bitcast=True) - 0x4B400000
        total = tl.sum(tl.sum(number, 1), 1)
        shift = (8 * byte)[None, :, None, None]
        high = tl.sum(((number >> 7) & 255) << shift, 1)
        low = tl.sum((number & 127) << shift, 1)
        fields = (code[:, None, :] >> (WIDTH * place)[None, :, None]) & MASK
        fields = tl.broadcast_to(fields[None, :, :, :], [BATCH, ROWS, PLACES, WORDS])
        high = tl.broadcast_to(high[:, None, :, :], [BATCH, ROWS, PLACES, WORDS])
        low = tl.broadcast_to(low[:, None, :, :], [BATCH, ROWS, PLACES, WORDS])
        upper = tl.sum(_four_products(high, fields, INTERPRETED), 2)
        lower = tl.sum(_four_products(low, fields, INTERPRETED), 2)
        part = (upper * 128 + lower).to(tl.float32) * slope + (total.to(tl.float32) * lowest)[:, None, :]
        sums += part * unit[:, None, :] * scale[None, :, :]
    store_sums(tl.sum(sums, 2), onto, out, split, vector, row, batch, rows, ONTO)
