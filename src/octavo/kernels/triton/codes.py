"""Kernels for packed codes: a few inputs in float32, tens of inputs on tensor cores, and any number by tiles.

A program takes ROWS rows and a run of columns; the sums of several runs are added by `sum_kernel` in their order.
"""

# pyright: reportMissingImports=false, reportArgumentType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from octavo.kernels.triton.decoding import (
    codes_at,
    digits_of,
    inputs_at,
    looked_up,
    mantissas_of,
    numbers_at,
    product_of,
    store_sums,
)


# Were addresses known to be multiples of 16, a thread would load 16 bytes of a row at once, and inputs would have to
# move between threads to meet them.
@triton.jit(do_not_specialize_on_alignment=["packed"])
def few_kernel(
    inputs,
    packed,
    values,
    scales,
    numbers,
    factors,
    onto,
    out,
    batch,
    columns,
    rows,
    count,
    row_codes,
    size,
    groups,
    tiles,
    block,
    one,
    LEVELS: tl.constexpr,
    WIDTH: tl.constexpr,
    DIGITS: tl.constexpr,
    PADDED: tl.constexpr,
    BYTES: tl.constexpr,
    TYPED: tl.constexpr,
    TABLE: tl.constexpr,
    AFFINE: tl.constexpr,
    SHIFTED: tl.constexpr,
    RAGGED: tl.constexpr,
    SHORT: tl.constexpr,
    ROW_GROUPS: tl.constexpr,
    SCALE_STRIDE: tl.constexpr,
    EVEN: tl.constexpr,
    NUMBERS: tl.constexpr,
    FACTORS: tl.constexpr,
    ONTO: tl.constexpr,
    BATCH: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """AFFINE: values are equally spaced. SHIFTED: rows begin inside groups, and a program takes every DIGITS-th, which
    begin alike. RAGGED: blocks of a scale begin inside groups too; SHORT: some are shorter than a group.

    EVEN: all rows and groups are there. Strides are constants, so that one address and offsets within instructions
    reach all rows of a program.
    """
    program = tl.program_id(0)
    split = tl.program_id(1)
    vector = tl.arange(0, BATCH)
    digit = tl.arange(0, PADDED)
    if SHIFTED:
        row = (program // DIGITS * ROWS + tl.arange(0, ROWS)) * DIGITS + program % DIGITS
        start = row.to(tl.int64) * row_codes // DIGITS
        early = ((program % DIGITS).to(tl.int64) * row_codes % DIGITS).to(tl.int32)
    else:
        row = program * ROWS + tl.arange(0, ROWS)
        start = row.to(tl.int64) * ROW_GROUPS
        early = 0
    there = row < rows
    scales_of_row = scales + row.to(tl.int64) * SCALE_STRIDE
    if AFFINE:
        lowest = tl.load(values)
        slope = tl.load(values + 1) - lowest
        if TYPED:
            slope *= LEVELS
            lowest -= slope
    else:
        level = tl.arange(0, TABLE)
        table = tl.load(values + level, mask=level < LEVELS, other=0.0)
    sums = tl.zeros([BATCH, ROWS, GROUPS], tl.float32)
    for tile in range(split * tiles, split * tiles + tiles):
        group = tile * GROUPS + tl.arange(0, GROUPS)
        number = numbers_at(packed, start, group, there, size, BYTES, TYPED, EVEN)
        # [batch, rows, digits, groups]
        place = (group[None, :] * DIGITS + digit[:, None])[None, None, :, :] - early
        if PADDED > DIGITS or SHIFTED:
            # Otherwise neighboring threads would be given the digits of a group, and have to add what they find.
            place = tl.max_contiguous(place, [1, 1, 1, 1])
        exists = (place >= 0) & (place < count) & (digit < DIGITS)[None, None, :, None]
        some = exists & (vector < batch)[:, None, None, None]
        given = inputs_at(inputs, numbers, factors, vector[:, None, None, None], place, some, columns, NUMBERS, FACTORS)
        if AFFINE and TYPED:
            weight = mantissas_of(number, one, LEVELS, WIDTH, PADDED)
        elif AFFINE:
            weight = digits_of(number, LEVELS, WIDTH, DIGITS, PADDED).to(tl.float32)
        else:
            weight = looked_up(table, digits_of(number, LEVELS, WIDTH, DIGITS, PADDED))
        if RAGGED:
            index = tl.where(exists, place, 0) // block
            if SHORT:
                at = scales_of_row[None, :, None, None] + index
                scale = tl.load(at, mask=exists & there[None, :, None, None], other=0.0).to(tl.float32)
            else:
                # Two scales at most are those of a group.
                first = tl.maximum(group * DIGITS - early, 0)
                last = tl.minimum(first + DIGITS - 1, count - 1) // block
                kept = there[:, None] & (first < count)[None, :]
                first = first // block
                one_scale = tl.load(scales_of_row[:, None] + first[None, :], mask=kept, other=0.0).to(tl.float32)
                other_scale = tl.load(scales_of_row[:, None] + last[None, :], mask=kept, other=0.0).to(tl.float32)
                alike = index == first[None, None, None, :]
                scale = tl.where(alike, one_scale[None, :, None, :], other_scale[None, :, None, :])
            if AFFINE:
                weight = weight * slope + lowest
            sums += tl.sum(weight[None, :, :, :] * scale * given, 2)
        else:
            at = scales_of_row[:, None] + (group * DIGITS // block)[None, :]
            if EVEN:
                scale = tl.load(at).to(tl.float32)
            else:
                scale = tl.load(at, mask=there[:, None] & (group < groups)[None, :], other=0.0).to(tl.float32)
            part = tl.sum(weight[None, :, :, :] * given, 2)
            if AFFINE:
                part = part * slope + tl.sum(given, 2) * lowest
            sums += part * scale[None, :, :]
    store_sums(tl.sum(sums, 2), onto, out, split, vector, row, batch, rows, ONTO)


@triton.jit
def arrange_kernel(
    inputs,
    numbers,
    arranged,
    totals,
    batch,
    columns,
    count,
    DIGITS: tl.constexpr,
    GROUPS: tl.constexpr,
    BATCH: tl.constexpr,
    NUMBERS: tl.constexpr,
):
    """Inputs as [chunks, digits, groups, batch], as `many_kernel` meets them, and the sum of each chunk."""
    chunk = tl.program_id(0)
    vector = tl.arange(0, BATCH)
    total = tl.zeros([BATCH], tl.float32)
    for digit in tl.static_range(DIGITS):
        group = tl.arange(0, GROUPS)
        place = (chunk * GROUPS + group) * DIGITS + digit
        exists = (place < count)[:, None] & (vector < batch)[None, :]
        value = inputs_at(inputs, numbers, inputs, vector[None, :], place[:, None], exists, columns, NUMBERS, False)
        at = ((chunk * DIGITS + digit) * GROUPS + group)[:, None] * BATCH + vector[None, :]
        tl.store(arranged + at, value.to(arranged.dtype.element_ty))
        total += tl.sum(value, 0)
    tl.store(totals + chunk * BATCH + vector, total)


@triton.jit(do_not_specialize_on_alignment=["packed"])
def many_kernel(
    arranged,
    totals,
    packed,
    values,
    scales,
    onto,
    out,
    batch,
    rows,
    size,
    tiles,
    block_chunks,
    chunks,
    LEVELS: tl.constexpr,
    WIDTH: tl.constexpr,
    DIGITS: tl.constexpr,
    BYTES: tl.constexpr,
    TYPED: tl.constexpr,
    TABLE: tl.constexpr,
    AFFINE: tl.constexpr,
    NARROW: tl.constexpr,
    ROW_GROUPS: tl.constexpr,
    SCALE_STRIDE: tl.constexpr,
    EVEN: tl.constexpr,
    ONTO: tl.constexpr,
    BATCH: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """Products of chunks of GROUPS groups, that share a scale, CHUNKS at once: one a warp.

    One digit of all groups is multiplied at a time, so that no code has to move next to its neighbor. Codes are
    multiplied as whole numbers, which bfloat16 has up to 256, or as two halves of their values. EVEN: all rows and
    chunks are there.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    split = tl.program_id(1)
    vector = tl.arange(0, BATCH)
    group = tl.arange(0, GROUPS)
    start = row.to(tl.int64) * ROW_GROUPS
    scales_of_row = scales + row.to(tl.int64) * SCALE_STRIDE
    if AFFINE:
        lowest = tl.load(values)
        slope = tl.load(values + 1) - lowest
    else:
        level = tl.arange(0, TABLE)
        table = tl.load(values + level, mask=level < LEVELS, other=0.0)
    sums = tl.zeros([CHUNKS, ROWS, BATCH], tl.float32)
    for tile in range(split * tiles, split * tiles + tiles):
        chunk = tile * CHUNKS + tl.arange(0, CHUNKS)
        real = chunk < chunks
        at = start[None, :, None] + (chunk[:, None] * GROUPS + group[None, :])[:, None, :]
        inside = there[None, :, None] & real[:, None, None]
        if TYPED and EVEN:
            number = tl.load(packed + at).to(tl.int32)
        elif TYPED:
            number = tl.load(packed + at, mask=inside & (at < size), other=0).to(tl.int32)
        else:
            number = tl.zeros(at.shape, tl.int32)
            for byte in tl.static_range(BYTES):
                place = at * BYTES + byte
                number |= tl.load(packed + place, mask=inside & (place < size), other=0).to(tl.int32) << (8 * byte)
        scales_at = scales_of_row[None, :] + (chunk // block_chunks)[:, None]
        if EVEN:
            scale = tl.load(scales_at).to(tl.float32)
        else:
            scale = tl.load(scales_at, mask=there[None, :] & real[:, None], other=0.0).to(tl.float32)
        part = tl.zeros([CHUNKS, ROWS, BATCH], tl.float32)
        for digit in tl.static_range(DIGITS):
            code = (number >> (WIDTH * digit)) & (LEVELS - 1)
            first = ((chunk * DIGITS + digit) * GROUPS)[:, None] + group[None, :]
            at_inputs = arranged + first[:, :, None] * BATCH + vector[None, None, :]
            given = tl.load(at_inputs) if EVEN else tl.load(at_inputs, mask=real[:, None, None], other=0.0)
            if AFFINE:
                part = tl.dot(code.to(tl.float32).to(NARROW), given, part, input_precision="ieee")
            else:
                part = product_of(looked_up(table, code), given.to(tl.float32), part, NARROW, 2, 1)
        if AFFINE:
            total = tl.load(totals + chunk[:, None] * BATCH + vector[None, :], mask=real[:, None], other=0.0)
            part = part * slope + (total * lowest)[:, None, :]
        sums += part * scale[:, :, None]
    store_sums(tl.trans(tl.sum(sums, 0)), onto, out, split, vector, row, batch, rows, ONTO)


@triton.jit
def tile_kernel(
    inputs,
    packed,
    values,
    scales,
    numbers,
    factors,
    onto,
    out,
    batch,
    columns,
    rows,
    count,
    row_codes,
    row_groups,
    size,
    tiles,
    block,
    scale_stride,
    LEVELS: tl.constexpr,
    WIDTH: tl.constexpr,
    DIGITS: tl.constexpr,
    PADDED: tl.constexpr,
    BYTES: tl.constexpr,
    TYPED: tl.constexpr,
    TABLE: tl.constexpr,
    SHIFTED: tl.constexpr,
    NUMBERS: tl.constexpr,
    FACTORS: tl.constexpr,
    ONTO: tl.constexpr,
    NARROW: tl.constexpr,
    WEIGHTS: tl.constexpr,
    INPUTS: tl.constexpr,
    BATCH: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """Tiles of weights are made in registers, go through shared memory, and meet tiles of inputs on tensor cores."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    split = tl.program_id(1)
    vector = tl.program_id(2) * BATCH + tl.arange(0, BATCH)
    start = row.to(tl.int64) * row_groups
    first_scale = row.to(tl.int64) * scale_stride
    level = tl.arange(0, TABLE)
    table = tl.load(values + level, mask=level < LEVELS, other=0.0)
    sums = tl.zeros([ROWS, BATCH], tl.float32)
    for tile in range(split * tiles, split * tiles + tiles):
        if SHIFTED:
            place = tile * GROUPS * PADDED + tl.arange(0, GROUPS * PADDED)
            real = place < count
            inside = there[:, None] & real[None, :]
            code = codes_at(packed, row, place, inside, row_codes, size, LEVELS, WIDTH, DIGITS, BYTES)
        else:
            # Digit by digit: the order of columns is that of [digits, groups].
            group = tile * GROUPS + tl.arange(0, GROUPS)
            digit = tl.arange(0, PADDED)
            real = tl.broadcast_to((digit < DIGITS)[:, None], [PADDED, GROUPS])
            place = tl.reshape(group[None, :] * DIGITS + digit[:, None], [PADDED * GROUPS])
            real = tl.reshape(real, [PADDED * GROUPS]) & (place < count)
            inside = there[:, None] & real[None, :]
            number = numbers_at(packed, start, group, there, size, BYTES, TYPED, False)
            code = tl.reshape(digits_of(number, LEVELS, WIDTH, DIGITS, PADDED), [ROWS, PADDED * GROUPS])
        index = first_scale[:, None] + (tl.where(real, place, 0) // block)[None, :]
        scale = tl.load(scales + index, mask=inside, other=0.0).to(tl.float32)
        given = inputs_at(
            inputs,
            numbers,
            factors,
            vector[None, :],
            place[:, None],
            real[:, None] & (vector < batch)[None, :],
            columns,
            NUMBERS,
            FACTORS,
        )
        sums = product_of(looked_up(table, code) * scale, given, sums, NARROW, WEIGHTS, INPUTS)
    store_sums(tl.trans(sums), onto, out, split, vector, row, batch, rows, ONTO)


@triton.jit
def rows_kernel(
    packed,
    values,
    scales,
    index,
    out,
    wanted,
    rows,
    count,
    row_codes,
    size,
    block,
    scale_stride,
    LEVELS: tl.constexpr,
    WIDTH: tl.constexpr,
    DIGITS: tl.constexpr,
    BYTES: tl.constexpr,
    ROWS: tl.constexpr,
    PLACES: tl.constexpr,
):
    """Weights of rows by their numbers; where there is no such row, nothing of use."""
    nth = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    place = tl.program_id(1) * PLACES + tl.arange(0, PLACES)
    row = tl.load(index + nth, mask=nth < wanted, other=0)
    there = (row >= 0) & (row < rows)
    inside = there[:, None] & (place < count)[None, :]
    code = codes_at(packed, row, place, inside, row_codes, size, LEVELS, WIDTH, DIGITS, BYTES)
    at = row.to(tl.int64)[:, None] * scale_stride + (place // block)[None, :]
    scale = tl.load(scales + at, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(values + code) * scale
    stored = (nth < wanted)[:, None] & (place < count)[None, :]
    tl.store(out + nth.to(tl.int64)[:, None] * count + place[None, :], weight, mask=stored)
