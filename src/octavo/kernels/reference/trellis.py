"""Paths through the trellis of octavo.kernels.trellis in plain torch: one row after the other, all columns at once.

In a state of quantizer q, an index of parity p may take three values of |k|: with a = min(|w|, REACH),

    first = 2p - q,  k_1 = p + 2 floor((a - first)/4 + 1/2),  at most the largest of that parity,
    k_2 = max(k_1 - 2, p),  and 0 for even parity,

of which that of least (a - value)² + cost[q, context, |k|] is taken, the earlier one where two are equal; k has the
sign of w. A state is reached from two states, by an even and by an odd index, and keeps the cheaper way, the even one
where both cost the same. After every PERIOD rows the least cost is subtracted from all. The path ends in the cheapest
state, the least number among equals. Sums and products are float32, from left to right, none fused.
"""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int, Int16, UInt8
from torch import Tensor

from octavo.kernels.trellis import PERIOD, REACH, polynomials


def trellis_indices(
    scaled: Float32[Tensor, "rows columns"],
    context: UInt8[Tensor, "rows columns"],
    cost: Float32[Tensor, "2 contexts sizes"],
    states: int,
) -> Int16[Tensor, "rows columns"]:
    """The indices of the path of least cost down each column."""
    rows, columns = scaled.shape
    device = scaled.device
    h0, h1 = polynomials(states)
    target = torch.arange(states, device=device)
    quantizer = target // (states // 2)
    # The state before `target`, by parity of the index between them.
    half = (target ^ (quantizer * h0)) & (states // 2 - 1)
    source = torch.stack([2 * half, 2 * (half ^ h1)]) + quantizer
    total = torch.full((states, columns), torch.inf, device=device)
    total[0] = 0
    odd = torch.empty(rows, states, columns, dtype=torch.bool, device=device)
    indices = torch.empty(rows, 2, 2, columns, dtype=torch.int16, device=device)
    for row in range(rows):
        branch, indices[row] = _branches(scaled[row], context[row].long(), cost)
        even_way, odd_way = (total[source[p]] + branch[quantizer, p] for p in (0, 1))
        odd[row] = odd_way < even_way
        total = torch.where(odd[row], odd_way, even_way)
        if (row + 1) % PERIOD == 0:
            total = total - total.amin(0)
    column = torch.arange(columns, device=device)
    state = total.argmin(0) if rows else column
    found = torch.empty(rows, columns, dtype=torch.int16, device=device)
    for row in reversed(range(rows)):
        parity = odd[row, state, column].long()
        found[row] = indices[row, quantizer[state], parity, column]
        state = source[parity, state]
    return found


def _branches(scaled: Tensor, context: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
    """Least cost and index of every (quantizer, parity), each [2, 2, columns]."""
    magnitude = scaled.abs().clamp(max=REACH)
    largest = cost.shape[2] - 1
    least = torch.empty(2, 2, len(scaled), device=scaled.device)
    indices = torch.empty(2, 2, len(scaled), dtype=torch.int64, device=scaled.device)
    for q in (0, 1):
        for p in (0, 1):
            nearest = p + 2 * ((magnitude - (2 * p - q)) * 0.25 + 0.5).floor().long()
            nearest = nearest.clamp(max=largest - (largest + p) % 2)
            tried = [nearest, (nearest - 2).clamp(min=p), *([torch.zeros_like(nearest)] if p == 0 else [])]
            found = torch.full_like(magnitude, torch.inf)
            for k in tried:
                value = 2 * k - q * (k > 0)
                error = (magnitude - value).square() + cost[q, context, k]
                better = error < found
                found = torch.where(better, error, found)
                indices[q, p] = torch.where(better, k, indices[q, p])
            least[q, p] = found
    return least, torch.where(scaled < 0, -indices, indices).to(torch.int16)


def trellis_values(indices: Int[Tensor, "rows columns"], states: int) -> Int16[Tensor, "rows columns"]:
    """What indices stand for, in fine steps."""
    k = indices.to(torch.int16)
    return 2 * k - k.sign() * trellis_quantizers(indices, states).to(torch.int16)


def trellis_quantizers(indices: Int[Tensor, "rows columns"], states: int) -> UInt8[Tensor, "rows columns"]:
    """Which quantizer each index belongs to, 0 or 1."""
    h0, h1 = polynomials(states)
    state = torch.zeros(indices.shape[1], dtype=torch.int64, device=indices.device)
    found = torch.empty(indices.shape, dtype=torch.uint8, device=indices.device)
    for row in range(len(indices)):
        found[row] = state & 1
        state = (state >> 1) ^ (state & 1) * h0 ^ (indices[row].long() & 1) * h1
    return found
