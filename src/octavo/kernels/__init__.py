"""Fast paths from weights to packed codes and back.

Each op has one schema (`torch.ops.octavo.*`), a definition in plain torch (`octavo.kernels.reference`) and faster back
ends that agree with it bit for bit: C++ on a CPU, Triton on a GPU. Shapes and layouts:

- weights are two-dimensional, rows x columns, float32, bfloat16 or float16;
- scales are float32, [rows, ceil(columns / block)]; one row [1, ...] is shared by all rows, so [1, 1] with
  `block >= columns` is one scale for the tensor, and [rows, 1] one a row;
- codebooks are float32, ascending, of 2 to 256 entries;
- codes are packed as octavo.kernels.layout says, rows running on without padding.

Products with packed weights (`linear`, `shift_linear`) are exact to a tolerance instead: they sum in float32, in an
order of their own.

The functions here check their arguments (FormatError) and then call the op.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32, Int, Int16, UInt8
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.kernels import checks, ops
from octavo.kernels.layout import layout_of, packed_bytes

__all__ = [
    "linear",
    "pack",
    "packed_bytes",
    "quantize",
    "quantize_pack",
    "repack",
    "separable_dequantize",
    "shift_decode",
    "shift_encode",
    "shift_linear",
    "trellis_indices",
    "trellis_quantizers",
    "trellis_values",
    "unpack",
    "unpack_dequantize",
]

AT_ONCE = 1 << 14
"""Common groups of two alphabets, of some dozens of codes each, that are repacked at once."""


def pack(codes: UInt8[Tensor, " n"], levels: int) -> UInt8[Tensor, " bytes"]:
    """Pack codes below `levels` (2 to 256) densely; FormatError where a code is not below."""
    checks.check_codes(codes, levels)
    return ops.pack(codes.contiguous(), levels)


def unpack(packed: UInt8[Tensor, " bytes"], levels: int, count: int) -> UInt8[Tensor, " n"]:
    """The `count` codes of a packed stream, all below `levels`; FormatError where its length is wrong."""
    checks.check_packed(packed, levels, count)
    return ops.unpack(packed.contiguous(), levels, count)


def repack(packed: UInt8[Tensor, " bytes"], levels: int, wider: int, count: int) -> UInt8[Tensor, " other"]:
    """The codes of a packed stream, packed as those of a larger alphabet; memory is the result and little more."""
    checks.check_packed(packed, levels, count)
    if wider < levels:
        raise FormatError(f"codes of {levels} levels do not fit {wider}", "pass at least as many levels")
    found = packed.new_empty(packed_bytes(count, wider))
    # Runs of codes that fill whole groups of both alphabets.
    run = AT_ONCE * layout_of(levels).digits * layout_of(wider).digits
    for start in range(0, count, run):
        stop = min(start + run, count)
        codes = unpack(packed[packed_bytes(start, levels) : packed_bytes(stop, levels)], levels, stop - start)
        found[packed_bytes(start, wider) : packed_bytes(stop, wider)] = pack(codes, wider)
    return found


def quantize(
    weights: Float[Tensor, "rows cols"],
    scales: Float32[Tensor, "_ _"],
    codebook: Float32[Tensor, " levels"],
    block: int,
) -> UInt8[Tensor, "rows cols"]:
    """Index of the nearest scaled codebook entry of every weight, one byte each (see reference.codebook for ties)."""
    _check_quantize(weights, scales, codebook, block)
    return ops.quantize(_accepted(weights), scales.contiguous(), codebook.contiguous(), block)


def quantize_pack(
    weights: Float[Tensor, "rows cols"],
    scales: Float32[Tensor, "_ _"],
    codebook: Float32[Tensor, " levels"],
    block: int,
) -> UInt8[Tensor, " bytes"]:
    """`quantize`, its codes packed as an alphabet of `len(codebook)` symbols, in one pass."""
    _check_quantize(weights, scales, codebook, block)
    return ops.quantize_pack(_accepted(weights), scales.contiguous(), codebook.contiguous(), block)


def unpack_dequantize(
    packed: UInt8[Tensor, " bytes"],
    scales: Float32[Tensor, "_ _"],
    codebook: Float32[Tensor, " levels"],
    block: int,
    rows: int,
    cols: int,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "rows cols"]:
    """codebook[code] * scale of every packed code, as float32 or bfloat16 [rows, cols]."""
    checks.check_devices(packed, scales, codebook)
    checks.check_codebook(codebook)
    checks.check_scales(scales, rows, cols, block)
    checks.check_packed(packed, codebook.numel(), rows * cols)
    checks.check_output(dtype)
    return ops.unpack_dequantize(
        packed.contiguous(), scales.contiguous(), codebook.contiguous(), block, rows, cols, dtype
    )


def separable_dequantize(
    codes: Int[Tensor, "rows cols"],
    row_step: Float32[Tensor, " rows"],
    column_step: Float32[Tensor, " cols"],
    reconstruction: Float32[Tensor, " points"] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "rows cols"]:
    """code * (row_step * column_step) of int8 or int16 codes, as float32 or bfloat16.

    `reconstruction`, an odd number of points, replaces the codes -half ... half by the values to multiply instead.
    """
    checks.check_devices(codes, row_step, column_step, reconstruction)
    checks.check_separable(codes, row_step, column_step, reconstruction)
    checks.check_output(dtype)
    points = None if reconstruction is None else reconstruction.contiguous()
    return ops.separable_dequantize(codes.contiguous(), row_step.contiguous(), column_step.contiguous(), points, dtype)


def trellis_indices(
    scaled: Float32[Tensor, "rows columns"],
    context: UInt8[Tensor, "rows columns"],
    cost: Float32[Tensor, "2 contexts sizes"],
    states: int,
) -> Int16[Tensor, "rows columns"]:
    """The path of least cost through a trellis (octavo.kernels.trellis) down each column, by the Viterbi algorithm.

    The cost of a path is the sum of (scaled - value)² + cost[quantizer, context, |index|] over the rows.

    Args:
        scaled: weights in units of the fine step.
        context: selects the costs of each weight.
        cost: what each size of an index costs beside its error, in squared fine steps; sizes - 1 is the largest.
        states: of the trellis: 4, 8, 16, 32 or 64.

    Raises:
        FormatError: a shape, dtype or number of states does not fit, a weight is NaN, or a context has no costs.
    """
    checks.check_devices(scaled, context, cost)
    checks.check_trellis_weights(scaled, context, cost, states)
    return ops.trellis_indices(scaled.detach().contiguous(), context.contiguous(), cost.contiguous(), states)


def trellis_values(indices: Int[Tensor, "rows columns"], states: int) -> Int16[Tensor, "rows columns"]:
    """The multiples of the fine step that int8 or int16 indices within ±16383 stand for; beyond they wrap around."""
    checks.check_trellis_indices(indices, states)
    return ops.trellis_values(indices.contiguous(), states)


def trellis_quantizers(indices: Int[Tensor, "rows columns"], states: int) -> UInt8[Tensor, "rows columns"]:
    """The quantizer, 0 or 1, to which each index of a column belongs."""
    checks.check_trellis_indices(indices, states)
    return ops.trellis_quantizers(indices.contiguous(), states)


def shift_encode(
    scaled: Float32[Tensor, "rows columns"], table: Float32[Tensor, " states"], bits: int
) -> UInt8[Tensor, "columns bytes"]:
    """The path of least squared error through a bit-shift trellis (octavo.kernels.shift_trellis) up each column.

    Args:
        scaled: weights in the table's units.
        table: value of each state; as many as in `octavo.kernels.shift_trellis.STATES`.
        bits: of a code.

    Returns:
        The stream of each column: `bits` a row, bit 0 of byte 0 first, filled up to a whole byte.

    Raises:
        FormatError: a shape, dtype or number of states does not fit, or a weight is NaN.
    """
    checks.check_devices(scaled, table)
    checks.check_shift_weights(scaled, table, bits)
    return ops.shift_encode(scaled.detach().contiguous(), table.contiguous(), bits)


def shift_decode(
    codes: UInt8[Tensor, "columns bytes"],
    table: Float32[Tensor, " states"],
    bits: int,
    rows: int,
    scales: Float32[Tensor, "_ blocks"],
    block: int,
    column: Float32[Tensor, " columns"],
) -> Float32[Tensor, "rows columns"]:
    """table[state] * (scales * column) of `rows` rows of every column.

    Args:
        codes: streams, which may go on beyond the last row: the states of the last rows look ahead into them.
        table, bits: see `shift_encode`.
        rows: how many.
        scales: [rows or 1, ceil(columns / block)].
        block: columns that share a scale.
        column: a factor for each column.

    Raises:
        FormatError: a shape or dtype does not fit.
    """
    checks.check_devices(codes, table, scales, column)
    checks.check_shift_codes(codes, table, bits, rows, column)
    checks.check_scales(scales, rows, codes.shape[0], block)
    factors = scales.contiguous(), block, column.contiguous()
    return ops.shift_decode(codes.contiguous(), table.contiguous(), bits, rows, *factors)


def linear(
    inputs: Float[Tensor, "batch cols"],
    packed: UInt8[Tensor, " bytes"],
    scales: Float32[Tensor, "_ _"],
    codebook: Float32[Tensor, " levels"],
    block: int,
    rows: int,
) -> Float32[Tensor, "batch {rows}"]:
    """Inputs, float32 or bfloat16, times the transpose of the matrix that `unpack_dequantize` would give.

    NaN among the inputs reaches every output of its row. Meant for few rows of inputs: weights are decoded again for
    every eight.
    """
    checks.check_devices(inputs, packed, scales, codebook)
    checks.check_inputs(inputs, rows)
    checks.check_codebook(codebook)
    checks.check_scales(scales, rows, inputs.shape[1], block)
    checks.check_finite_scales(scales)
    checks.check_packed(packed, codebook.numel(), rows * inputs.shape[1])
    tensors = inputs.contiguous(), packed.contiguous(), scales.contiguous(), codebook.contiguous()
    return ops.linear(*tensors, block, rows)


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
    """Inputs, float32 or bfloat16, times the transpose of the matrix that `shift_decode` would give; see `linear`."""
    checks.check_devices(inputs, codes, table, scales, column)
    checks.check_inputs(inputs, rows)
    checks.check_shift_codes(codes, table, bits, rows, column)
    checks.check_scales(scales, rows, len(codes), block)
    checks.check_finite_scales(scales)
    if inputs.shape[1] != len(codes):
        raise FormatError(f"{inputs.shape[1]} inputs do not fit {len(codes)} columns", "pass one for each column")
    factors = scales.contiguous(), block, column.contiguous()
    return ops.shift_linear(inputs.contiguous(), codes.contiguous(), table.contiguous(), bits, rows, *factors)


def _check_quantize(weights: Tensor, scales: Tensor, codebook: Tensor, block: int) -> None:
    checks.check_devices(weights, scales, codebook)
    checks.check_weights(weights)
    checks.check_codebook(codebook)
    checks.check_scales(scales, weights.shape[0], weights.shape[1], block)
    checks.check_finite_scales(scales)


def _accepted(weights: Tensor) -> Tensor:
    """Weights of a dtype that the back ends read; others (float64, float8) become float32 first."""
    narrow = weights.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return (weights if narrow else weights.float()).detach().contiguous()
