"""Paths through the bit-shift trellis of octavo.kernels.shift_trellis in plain torch: all columns at once.

The cost of a state is that of the cheapest path to any of the 2^b states from which it is reached, plus the square of
the weight (within ±REACH) less its value; the least state number wins a tie. After every PERIOD rows the least cost is
subtracted from all. The path ends in the cheapest class of states modulo 2^(L-b), the least number among equals. Sums
and products are float32, from left to right, none fused.
"""

from __future__ import annotations

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from octavo.kernels.shift_trellis import PERIOD, REACH, column_bytes


def shift_encode(
    scaled: Float32[Tensor, "rows columns"], table: Float32[Tensor, " states"], bits: int
) -> UInt8[Tensor, "columns bytes"]:
    """The packed codes of the path of least squared error up each column."""
    rows, columns = scaled.shape
    states, branches = len(table), 2**bits
    nodes = states // branches
    weights = scaled.clamp(-REACH, REACH)
    total = torch.full((nodes, columns), torch.inf, device=scaled.device)
    total[0] = 0
    chosen = torch.empty(rows, nodes, columns, dtype=torch.uint8, device=scaled.device)
    for step, row in enumerate(reversed(range(rows)), 1):
        error = (weights[row] - table[:, None]).square()
        cost = (total.repeat_interleave(branches, 0) + error).view(branches, nodes, columns)
        # Which of equal minima `min` points at is not defined.
        total = cost.amin(0)
        chosen[row] = (cost == total).to(torch.uint8).argmax(0)
        if step % PERIOD == 0:
            total = total - total.amin(0)
    codes = torch.empty(rows, columns, dtype=torch.uint8, device=scaled.device)
    column = torch.arange(columns, device=scaled.device)
    node = (total == total.amin(0)).to(torch.uint8).argmax(0) if rows else column
    for row in range(rows):
        state = chosen[row, node, column].long() * nodes + node
        codes[row] = state % branches
        node = state // branches
    return _packed(codes, bits)


def _packed(codes: UInt8[Tensor, "rows columns"], bits: int) -> UInt8[Tensor, "columns bytes"]:
    rows, columns = codes.shape
    each = torch.arange(bits, device=codes.device)
    stream = (codes.T[:, :, None] >> each & 1).reshape(columns, rows * bits)
    size = column_bytes(rows, bits)
    stream = torch.nn.functional.pad(stream, (0, 8 * size - rows * bits)).view(columns, size, 8)
    return (stream << torch.arange(8, device=codes.device)).sum(2).to(torch.uint8)


def shift_decode(
    codes: UInt8[Tensor, "columns bytes"],
    table: Float32[Tensor, " states"],
    bits: int,
    rows: int,
    scales: Float32[Tensor, "_ blocks"],
    block: int,
    column: Float32[Tensor, " columns"],
) -> Float32[Tensor, "rows columns"]:
    """table[state] * (scales * column)."""
    columns = len(codes)
    window = len(table).bit_length() - 1
    # A window starts within a byte and reaches over at most two more.
    wide = torch.nn.functional.pad(codes, (0, 4)).long()
    start = torch.arange(rows, device=codes.device) * bits
    first = start // 8
    word = wide[:, first] | wide[:, first + 1] << 8 | wide[:, first + 2] << 16
    state = (word >> start % 8) & ((1 << window) - 1)
    factor = scales[:, torch.arange(columns, device=codes.device) // block] * column
    return table[state.T] * factor
