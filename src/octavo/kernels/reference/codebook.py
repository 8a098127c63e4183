"""Quantizing to a scaled codebook and back in plain torch: the definition that every back end meets bit for bit.

With m_k = the float32 midpoint of codebook entries k and k + 1, all products rounded to float32 and none fused,

    code  = #{k : w > m_k * s}            for a scale s >= 0,
    code  = #{k : -w > m_k * (-s)}        for a scale s < 0 (signmax), the same as #{k : w < m_k * s},
    value = codebook[code] * s.

So a weight that lies on a midpoint takes the lower index, a zero scale sends positive weights to the last code and all
others to the first, and the value is rounded to the output's dtype last. Weights of 16 bits widen to float32 exactly.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from octavo.kernels.reference.packing import pack, unpack

# Rows are taken in groups of about this many weights, to bound the memory of the float32 and int64 temporaries.
_WEIGHTS_AT_ONCE = 1 << 20


def quantize_pack(
    weights: Float[Tensor, "rows cols"],
    scales: Float32[Tensor, "_ _"],
    midpoints: Float32[Tensor, " midpoints"],
    block: int,
    levels: int,
) -> UInt8[Tensor, " bytes"]:
    """Codes of the nearest scaled codebook entries, packed as an alphabet of `levels` symbols."""
    return pack(quantize(weights, scales, midpoints, block).flatten(), levels)


def quantize(
    weights: Float[Tensor, "rows cols"],
    scales: Float32[Tensor, "_ _"],
    midpoints: Float32[Tensor, " midpoints"],
    block: int,
) -> UInt8[Tensor, "rows cols"]:
    """Codes of the nearest scaled codebook entries; binary search, so that nothing is weights x levels."""
    rows, cols = weights.shape
    depth = midpoints.numel().bit_length()
    padding = midpoints.new_full(((1 << depth) - 1 - midpoints.numel(),), torch.inf)
    table = torch.cat([midpoints, padding])
    codes = torch.empty(rows, cols, dtype=torch.uint8, device=weights.device)
    for part in _row_ranges(rows, cols):
        spread = _spread(scales, part, block, cols)
        values = weights[part].float()
        values = torch.where(spread < 0, -values, values)
        spread = spread.abs()
        found = torch.zeros(values.shape, dtype=torch.int64, device=weights.device)
        for step in (1 << bit for bit in reversed(range(depth))):
            # A padding of inf times a zero scale is NaN, and no value is greater than that either.
            found += step * (values > table[found + (step - 1)] * spread)
        codes[part] = found.to(torch.uint8)
    return codes


def unpack_dequantize(
    packed: UInt8[Tensor, " bytes"],
    scales: Float32[Tensor, "_ _"],
    codebook: Float32[Tensor, " levels"],
    block: int,
    rows: int,
    cols: int,
    dtype: torch.dtype,
) -> Float[Tensor, "{rows} {cols}"]:
    """The values that packed codes, scales and a codebook stand for."""
    codes = unpack(packed, codebook.numel(), rows * cols).view(rows, cols)
    values = torch.empty(rows, cols, dtype=dtype, device=packed.device)
    for part in _row_ranges(rows, cols):
        values[part] = (codebook[codes[part].long()] * _spread(scales, part, block, cols)).to(dtype)
    return values


def _row_ranges(rows: int, cols: int) -> list[slice]:
    size = max(1, _WEIGHTS_AT_ONCE // max(1, cols))
    return [slice(start, min(rows, start + size)) for start in range(0, rows, size)]


def _spread(scales: Tensor, part: slice, block: int, cols: int) -> Tensor:
    """One scale a weight (or one that broadcasts) for a range of rows."""
    chosen = scales if scales.shape[0] == 1 else scales[part]
    return chosen if scales.shape[1] == 1 else chosen.repeat_interleave(block, dim=1)[:, :cols]
