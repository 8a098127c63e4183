"""Kernels for the other parts: wide grid codes, trellis streams, single weights, zeros, and the sum of splits."""

# pyright: reportMissingImports=false, reportArgumentType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from octavo.kernels.triton.decoding import inputs_at, looked_up, product_of, runs_of_states, states_at, store_sums

# Values of so many states fit beside a tile in shared memory.
_SHARED_STATES = tl.constexpr(4096)


@triton.jit
def _grid_weights(codes, points, row_step, row, place, there, inside, count, half):
    code = tl.load(codes + row.to(tl.int64)[:, None] * count + place[None, :], mask=inside, other=0).to(tl.int32)
    within = (code >= -half) & (code <= half)
    point = tl.load(points + tl.where(within, code + half, 0))
    step = tl.load(row_step + row, mask=there, other=0.0)
    return tl.where(within, point, code.to(tl.float32)) * step[:, None]


@triton.jit
def _values_of(table, state, STATES: tl.constexpr):
    if STATES <= _SHARED_STATES:
        value = looked_up(tl.load(table + tl.arange(0, STATES)), state)
    else:
        value = tl.load(table + state)
    return value


@triton.jit
def _scales_of(scales, row, column, inside, block, scale_stride):
    at = row.to(tl.int64)[:, None] * scale_stride + (column // block)[None, :]
    return tl.load(scales + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _added(sums, weight, given, NARROW: tl.constexpr, WEIGHTS: tl.constexpr, INPUTS: tl.constexpr, DOT: tl.constexpr):
    """Sums [rows, batch], or [rows, places, batch], with a tile of weights [rows, places] times inputs [places, batch].

    Outside of tensor cores those of places are added in the end, since that moves them between threads.
    """
    if DOT:
        sums = product_of(weight, given, sums, NARROW, WEIGHTS, INPUTS)
    else:
        sums += weight[:, :, None] * given[None, :, :]
    return sums


@triton.jit
def grid_kernel(
    inputs,
    codes,
    points,
    row_step,
    numbers,
    factors,
    onto,
    out,
    batch,
    columns,
    rows,
    count,
    tiles,
    half,
    NUMBERS: tl.constexpr,
    FACTORS: tl.constexpr,
    ONTO: tl.constexpr,
    NARROW: tl.constexpr,
    WEIGHTS: tl.constexpr,
    INPUTS: tl.constexpr,
    DOT: tl.constexpr,
    BATCH: tl.constexpr,
    ROWS: tl.constexpr,
    PLACES: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    split = tl.program_id(1)
    vector = tl.program_id(2) * BATCH + tl.arange(0, BATCH)
    sums = tl.zeros([ROWS, BATCH] if DOT else [ROWS, PLACES, BATCH], tl.float32)
    for tile in range(split * tiles, split * tiles + tiles):
        place = tile * PLACES + tl.arange(0, PLACES)
        real = place < count
        some = real[:, None] & (vector < batch)[None, :]
        weight = _grid_weights(codes, points, row_step, row, place, there, there[:, None] & real[None, :], count, half)
        given = inputs_at(inputs, numbers, factors, vector[None, :], place[:, None], some, columns, NUMBERS, FACTORS)
        sums = _added(sums, weight, given, NARROW, WEIGHTS, INPUTS, DOT)
    if not DOT:
        sums = tl.sum(sums, 1)
    store_sums(tl.trans(sums), onto, out, split, vector, row, batch, rows, ONTO)


@triton.jit
def shift_kernel(
    inputs,
    codes,
    table,
    scales,
    numbers,
    factors,
    onto,
    out,
    batch,
    columns,
    rows,
    count,
    tiles,
    stream,
    block,
    scale_stride,
    BITS: tl.constexpr,
    STATES: tl.constexpr,
    BYTES: tl.constexpr,
    SINGLE: tl.constexpr,
    NUMBERS: tl.constexpr,
    FACTORS: tl.constexpr,
    ONTO: tl.constexpr,
    NARROW: tl.constexpr,
    WEIGHTS: tl.constexpr,
    INPUTS: tl.constexpr,
    DOT: tl.constexpr,
    BATCH: tl.constexpr,
    ROWS: tl.constexpr,
    PLACES: tl.constexpr,
):
    """SINGLE: a row has but one scale."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    split = tl.program_id(1)
    vector = tl.program_id(2) * BATCH + tl.arange(0, BATCH)
    sums = tl.zeros([ROWS, BATCH] if DOT else [ROWS, PLACES, BATCH], tl.float32)
    for tile in range(split * tiles, split * tiles + tiles):
        place = tile * PLACES + tl.arange(0, PLACES)
        real = place < count
        some = real[:, None] & (vector < batch)[None, :]
        octet = tl.program_id(0) * (ROWS // 8) + tl.arange(0, ROWS // 8)
        some_there = (octet * 8 < rows)[:, None] & real[None, :]
        state = runs_of_states(codes, octet, place, some_there, stream, BITS, STATES, BYTES)
        weight = tl.reshape(_values_of(table, state, STATES), [ROWS, PLACES])
        if not SINGLE:
            weight *= _scales_of(scales, row, place, there[:, None] & real[None, :], block, scale_stride)
        given = inputs_at(inputs, numbers, factors, vector[None, :], place[:, None], some, columns, NUMBERS, FACTORS)
        sums = _added(sums, weight, given, NARROW, WEIGHTS, INPUTS, DOT)
    if not DOT:
        sums = tl.sum(sums, 1)
    if SINGLE:
        sums *= tl.load(scales + row * scale_stride, mask=there, other=0.0).to(tl.float32)[:, None]
    store_sums(tl.trans(sums), onto, out, split, vector, row, batch, rows, ONTO)


@triton.jit
def grid_rows_kernel(
    codes, points, row_step, index, out, wanted, rows, count, half, ROWS: tl.constexpr, PLACES: tl.constexpr
):
    """Weights of rows by their numbers; where there is no such row, nothing of use."""
    nth = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    place = tl.program_id(1) * PLACES + tl.arange(0, PLACES)
    row = tl.load(index + nth, mask=nth < wanted, other=0)
    there = (row >= 0) & (row < rows)
    inside = there[:, None] & (place < count)[None, :]
    weight = _grid_weights(codes, points, row_step, row, place, there, inside, count, half)
    stored = (nth < wanted)[:, None] & (place < count)[None, :]
    tl.store(out + nth.to(tl.int64)[:, None] * count + place[None, :], weight, mask=stored)


@triton.jit
def shift_rows_kernel(
    codes,
    table,
    scales,
    index,
    out,
    wanted,
    rows,
    count,
    stream,
    block,
    scale_stride,
    BITS: tl.constexpr,
    STATES: tl.constexpr,
    ROWS: tl.constexpr,
    PLACES: tl.constexpr,
):
    """Weights of rows by their numbers; where there is no such row, nothing of use."""
    nth = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    place = tl.program_id(1) * PLACES + tl.arange(0, PLACES)
    row = tl.load(index + nth, mask=nth < wanted, other=0)
    there = (row >= 0) & (row < rows)
    row = tl.where(there, row, 0)
    inside = there[:, None] & (place < count)[None, :]
    state = states_at(codes, row, place, inside, stream, BITS, STATES)
    weight = _values_of(table, state, STATES) * _scales_of(scales, row, place, inside, block, scale_stride)
    stored = (nth < wanted)[:, None] & (place < count)[None, :]
    tl.store(out + nth.to(tl.int64)[:, None] * count + place[None, :], weight, mask=stored)


@triton.jit
def sparse_kernel(
    inputs,
    starts,
    numbers,
    values,
    onto,
    out,
    batch,
    columns,
    rows,
    ONTO: tl.constexpr,
    BATCH: tl.constexpr,
    PLACES: tl.constexpr,
):
    """The single weights of one row."""
    row = tl.program_id(0)
    vector = tl.program_id(1) * BATCH + tl.arange(0, BATCH)
    end = tl.load(starts + row + 1)
    sums = tl.zeros([BATCH], tl.float32)
    for first in range(tl.load(starts + row), end, PLACES):
        nth = first + tl.arange(0, PLACES)
        real = nth < end
        column = tl.load(numbers + nth, mask=real, other=0)
        weight = tl.load(values + nth, mask=real, other=0.0)
        some = real[:, None] & (vector < batch)[None, :]
        at = vector.to(tl.int64)[None, :] * columns + column[:, None]
        given = tl.load(inputs + at, mask=some, other=0.0).to(tl.float32)
        sums += tl.sum(weight[:, None] * given, 0)
    exists = vector < batch
    at = vector.to(tl.int64) * rows + row
    if ONTO:
        sums += tl.load(onto + at, mask=exists, other=0.0)
    tl.store(out + at, sums, mask=exists)


@triton.jit
def sparse_rows_kernel(starts, numbers, values, index, out, rows, columns, PLACES: tl.constexpr):
    """Add the single weights of a row, by its number, to one row of `out`; a program is all that writes to it."""
    nth = tl.program_id(0).to(tl.int64)
    row = tl.load(index + nth)
    there = (row >= 0) & (row < rows)
    first = tl.load(starts + row, mask=there, other=0)
    end = tl.load(starts + row + 1, mask=there, other=0)
    for begin in range(first, end, PLACES):
        place = begin + tl.arange(0, PLACES)
        real = place < end
        column = tl.load(numbers + place, mask=real, other=0)
        weight = tl.load(values + place, mask=real, other=0.0)
        tl.atomic_add(out + nth * columns + column, weight, mask=real)


@triton.jit
def zeros_kernel(
    inputs,
    numbers,
    onto,
    out,
    columns,
    rows,
    count,
    ONTO: tl.constexpr,
    ROWS: tl.constexpr,
    PLACES: tl.constexpr,
):
    """Zero, or NaN where an input is not finite, for some rows of one vector."""
    vector = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros([PLACES], tl.float32)
    for first in range(0, count, PLACES):
        place = first + tl.arange(0, PLACES)
        real = place < count
        column = tl.load(numbers + place, mask=real, other=0)
        total += 0.0 * tl.load(inputs + vector * columns + column, mask=real, other=0.0).to(tl.float32)
    exists = row < rows
    sums = tl.zeros([ROWS], tl.float32) + tl.sum(total, 0)
    at = vector * rows + row
    if ONTO:
        sums += tl.load(onto + at, mask=exists, other=0.0)
    tl.store(out + at, sums, mask=exists)


@triton.jit
def sum_kernel(parts, onto, out, count, splits, ONTO: tl.constexpr, TILE: tl.constexpr):
    """The sums of all splits, always in their order."""
    at = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    exists = at < count
    sums = tl.zeros([TILE], tl.float32)
    for split in range(splits):
        sums += tl.load(parts + split * count + at, mask=exists, other=0.0)
    if ONTO:
        sums += tl.load(onto + at, mask=exists, other=0.0)
    tl.store(out + at, sums, mask=exists)
