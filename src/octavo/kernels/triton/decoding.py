"""What the product kernels share: packed codes, trellis states and inputs, read within their bounds.

Triton reads names of constants in capitals and pointers untyped. Tensors of a program are [rows, digits, groups]: a
thread has one group and all of its digits and rows, so that an input is loaded once for all rows and nothing moves
between threads until the sums are complete.
"""

# pyright: reportMissingImports=false, reportArgumentType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def numbers_at(packed, start, group, there, size, BYTES: tl.constexpr, TYPED: tl.constexpr, EVEN: tl.constexpr):
    """The numbers [rows, groups] that hold the digits of groups; 0 beyond the end, unless all are there (EVEN).

    `packed` is of integers that are the numbers (TYPED), or of bytes.
    """
    at = start[:, None] + group[None, :]
    if TYPED and EVEN:
        number = tl.load(packed + at).to(tl.int32)
    elif TYPED:
        number = tl.load(packed + at, mask=there[:, None] & (at < size), other=0).to(tl.int32)
    else:
        first = at.to(tl.int64) * BYTES
        number = tl.zeros(at.shape, tl.uint64 if BYTES > 4 else tl.uint32)
        for byte in tl.static_range(BYTES):
            part = tl.load(packed + first + byte, mask=there[:, None] & (first + byte < size), other=0)
            number |= part.to(number.dtype) << (8 * byte)
    return number


@triton.jit
def digits_of(number, LEVELS: tl.constexpr, WIDTH: tl.constexpr, DIGITS: tl.constexpr, PADDED: tl.constexpr):
    """The codes [rows, digits, groups] of numbers, all below LEVELS whatever the number; the last ones repeat."""
    digit = tl.arange(0, PADDED)
    if WIDTH > 0:
        shift = (WIDTH * digit).to(number.dtype)
        code = (number[:, None, :] >> shift[None, :, None]).to(tl.int32) & (LEVELS - 1)
    else:
        power = tl.full([PADDED], 1, number.dtype)
        for index in tl.static_range(DIGITS - 1):
            power = tl.where(digit > index, power * LEVELS, power)
        code = (number[:, None, :] // power[None, :, None] % LEVELS).to(tl.int32)
    return code


@triton.jit
def mantissas_of(number, one, LEVELS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """1 + code / LEVELS as float32 [rows, digits, groups]: the code is moved to the top of the mantissa of 1.

    A shift and one logical instruction a weight, where converting takes more. `one`, the bits of 1.0, is an argument
    because that instruction has room for a single constant.
    """
    left = (23 - WIDTH) - WIDTH * tl.arange(0, PADDED)
    left = left[None, :, None]
    number = number[:, None, :]
    moved = tl.where(left >= 0, number << tl.maximum(left, 0), number >> tl.maximum(-left, 0))
    return ((moved & ((LEVELS - 1) << (23 - WIDTH))) | one).to(tl.float32, bitcast=True)


@triton.jit
def codes_at(
    packed,
    row,
    place,
    exists,
    row_codes,
    size,
    LEVELS: tl.constexpr,
    WIDTH: tl.constexpr,
    DIGITS: tl.constexpr,
    BYTES: tl.constexpr,
):
    """Codes [rows, places] one by one, wherever rows begin; `packed` is of bytes."""
    flat = row.to(tl.int64)[:, None] * row_codes + place[None, :]
    if WIDTH > 0:
        bit = flat * WIDTH
        byte = bit >> 3
        word = tl.load(packed + byte, mask=exists & (byte < size), other=0).to(tl.int32)
        if 8 % WIDTH != 0:
            high = tl.load(packed + byte + 1, mask=exists & (byte + 1 < size), other=0).to(tl.int32)
            word |= high << 8
        code = (word >> (bit & 7).to(tl.int32)) & (LEVELS - 1)
    else:
        group = flat // DIGITS
        digit = (flat - group * DIGITS).to(tl.int32)
        number = tl.zeros(flat.shape, tl.uint64)
        for index in tl.static_range(BYTES):
            place = group * BYTES + index
            number |= tl.load(packed + place, mask=exists & (place < size), other=0).to(tl.uint64) << (8 * index)
        for index in tl.static_range(DIGITS - 1):
            number = tl.where(digit > index, number // LEVELS, number)
        code = (number % LEVELS).to(tl.int32)
    return code


@triton.jit
def states_at(codes, row, column, exists, stream, BITS: tl.constexpr, STATES: tl.constexpr):
    """States [rows, columns] of a bit-shift trellis, zeros being read beyond the end of a stream."""
    bit = row * BITS
    byte = (bit >> 3)[:, None]
    base = codes + column.to(tl.int64)[None, :] * stream
    word = tl.zeros(exists.shape, tl.int32)
    for index in tl.static_range(3):
        part = tl.load(base + byte + index, mask=exists & (byte + index < stream), other=0)
        word |= part.to(tl.int32) << (8 * index)
    return (word >> (bit & 7).to(tl.int32)[:, None]) & (STATES - 1)


@triton.jit
def runs_of_states(codes, octet, column, exists, stream, BITS: tl.constexpr, STATES: tl.constexpr, BYTES: tl.constexpr):
    """States [octets, 8, columns] of eight rows each, whose windows lie in one number of BYTES."""
    base = codes + column.to(tl.int64)[None, :] * stream
    first = (octet * BITS)[:, None]
    number = tl.zeros(exists.shape, tl.uint64 if BYTES > 4 else tl.uint32)
    for index in tl.static_range(BYTES):
        part = tl.load(base + first + index, mask=exists & (first + index < stream), other=0)
        number |= part.to(number.dtype) << (8 * index)
    shift = (BITS * tl.arange(0, 8)).to(number.dtype)
    return (number[:, None, :] >> shift[None, :, None]).to(tl.int32) & (STATES - 1)


@triton.jit
def looked_up(table, codes):
    """table[codes] of a table in registers, which lies in shared memory for the length of a look-up."""
    return tl.gather(table, tl.reshape(codes, [codes.numel]), 0).reshape(codes.shape)


@triton.jit
def inputs_at(inputs, numbers, factors, vector, place, exists, columns, NUMBERS: tl.constexpr, FACTORS: tl.constexpr):
    """Inputs of a part at some places of its columns, float32, times their factors; 0 where there are none."""
    column = place
    if NUMBERS:
        column = tl.load(numbers + place, mask=exists, other=0)
    value = tl.load(inputs + vector.to(tl.int64) * columns + column, mask=exists, other=0.0).to(tl.float32)
    if FACTORS:
        value *= tl.load(factors + place, mask=exists, other=0.0)
    return value


@triton.jit
def product_of(weights, inputs, sums, NARROW: tl.constexpr, WEIGHTS: tl.constexpr, INPUTS: tl.constexpr):
    """sums + weights · inputs in float32, on tensor cores where inputs were bfloat16.

    Float32 is split into numbers of the type NARROW, whose products are exact: WEIGHTS and INPUTS say into how many.
    With 2 what is left out is 2^-16 of a product at most. NARROW is float32 for inputs of float32, without a split.
    """
    high_weights = weights if WEIGHTS == 1 else _high(weights)
    high_inputs = inputs if INPUTS == 1 else _high(inputs)
    first = high_weights.to(NARROW)
    second = high_inputs.to(NARROW)
    sums = tl.dot(first, second, sums, input_precision="ieee")
    if WEIGHTS == 2:
        sums = tl.dot((weights - high_weights).to(NARROW), second, sums, input_precision="ieee")
    if INPUTS == 2:
        sums = tl.dot(first, (inputs - high_inputs).to(NARROW), sums, input_precision="ieee")
    return sums


@triton.jit
def _high(value):
    """What bfloat16 holds of the bits of a float32."""
    return (value.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def store_sums(sums, onto, out, split, vector, row, batch, rows, ONTO: tl.constexpr):
    """Store [batch, rows] sums of one split, added to `onto` where there is but one."""
    exists = (vector[:, None] < batch) & (row[None, :] < rows)
    at = vector.to(tl.int64)[:, None] * rows + row[None, :]
    if ONTO:
        sums += tl.load(onto + at, mask=exists, other=0.0)
    tl.store(out + split.to(tl.int64) * batch * rows + at, sums, mask=exists)
