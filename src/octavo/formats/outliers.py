"""Sparse outliers: some weights of a tensor, as a rule the largest, kept in bfloat16 beside the codes.

Their positions in the flattened tensor are an ascending sequence of k numbers below n, stored by Elias and Fano's code
in the part `outlier_index` (uint8), whose size depends on k and n alone. With l = max(0, floor(log2(n / k))):

- first k·l bits: the low l bits of every position, as one little-endian bit stream, filled up to a whole byte;
- then k + floor((n - 1) / 2^l) + 1 bits: for each value h of position >> l in ascending order, one 1 for every position
  that has it, then a 0; filled up to a whole byte with zero bits. Bit 0 is the least significant of its byte.

That is about 2 + log2(n / k) bits a position: 12 at one in a thousand, where a plain index takes 32. The values are in
the part `outlier_value`, in the order of the positions.

Source: Elias, "Efficient storage and retrieval by content and address of static files", J. ACM 21 (1974).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from octavo.base.errors import CheckpointError
from octavo.formats.importance import Importance
from octavo.formats.scaling import row_ranges


def outlier_count(fraction: float, numel: int) -> int:
    """How many of `numel` weights are outliers: floor(fraction · numel)."""
    return math.floor(fraction * numel)


def outlier_bits(fraction: float, numel: int) -> int:
    """Bits of the parts `outlier_index` and `outlier_value`."""
    count = outlier_count(fraction, numel)
    return 8 * sum(_index_bytes(count, numel)) + 16 * count


def largest(
    matrix: Float[Tensor, "rows columns"], count: int, importance: Importance | None
) -> Int64[Tensor, " count"]:
    """Ascending flat positions of the weights of largest magnitude (with importance: of largest F·w²).

    The threshold is found by counting the magnitudes' upper and then lower 16 bits, so that nothing is sorted; of
    several weights at the threshold the first ones count.
    """
    rows, columns = matrix.shape
    ranges = list(row_ranges(rows, columns))
    above, high = _descend(lambda part: _keys(matrix, part, importance) >> 16, ranges, count)

    def low_bits(part: slice) -> Tensor:
        keys = _keys(matrix, part, importance)
        return keys[(keys >> 16) == high] & 0xFFFF

    tied, low = _descend(low_bits, ranges, count - above)
    threshold, still = (high << 16) | low, count - above - tied
    found = []
    for part in ranges:
        keys = _keys(matrix, part, importance)
        at = (keys == threshold).nonzero().flatten()[:still]
        still -= len(at)
        found += [torch.cat([(keys > threshold).nonzero().flatten(), at]) + part.start * columns]
    return torch.cat(found).sort().values


def _keys(matrix: Tensor, part: slice, importance: Importance | None) -> Tensor:
    """Magnitudes of some rows as integers in the same order (a float32 above zero read as an int32)."""
    magnitudes = matrix[part].float().abs()
    if importance is not None:
        magnitudes = magnitudes * importance.column.sqrt() * importance.row[part].sqrt()[:, None]
    return magnitudes.flatten().view(torch.int32)


def _descend(keys_of, ranges: list[slice], count: int) -> tuple[int, int]:
    """The largest 16-bit key that at least `count` keys reach, and how many lie above it."""
    histogram = sum(torch.bincount(keys_of(part), minlength=1 << 16) for part in ranges)
    assert isinstance(histogram, Tensor)
    reached = histogram.flip(0).cumsum(0)
    index = int((reached >= count).nonzero()[0])
    return int(reached[index] - histogram.flip(0)[index]), (1 << 16) - 1 - index


def encode_index(positions: Int64[Tensor, " count"], numel: int) -> UInt8[Tensor, " bytes"]:
    """The part `outlier_index` of ascending positions below `numel`."""
    count = positions.numel()
    low = _low_bits(count, numel)
    low_bytes, high_bytes = _index_bytes(count, numel)
    shifts = torch.arange(low, device=positions.device)
    lower = (positions[:, None] >> shifts) & 1
    higher = torch.zeros(8 * high_bytes, dtype=torch.int64, device=positions.device)
    higher[(positions >> low) + torch.arange(count, device=positions.device)] = 1
    return torch.cat([_to_bytes(lower.flatten(), low_bytes), _to_bytes(higher, high_bytes)])


def decode_index(packed: UInt8[Tensor, " bytes"], count: int, numel: int) -> Int64[Tensor, " count"]:
    """The positions behind the part `outlier_index`.

    Raises:
        CheckpointError: the bytes cannot come from `encode_index`.
    """
    low = _low_bits(count, numel)
    low_bytes, high_bytes = _index_bytes(count, numel)
    if packed.numel() != low_bytes + high_bytes:
        raise CheckpointError("the positions of the outliers are damaged", "fetch or compress the checkpoint again")
    ones = _to_bits(packed[low_bytes:]).nonzero().flatten()
    if ones.numel() != count:
        raise CheckpointError("the positions of the outliers are damaged", "fetch or compress the checkpoint again")
    shifts = torch.arange(low, device=packed.device)
    lower = (_to_bits(packed[:low_bytes])[: count * low].view(count, low) << shifts).sum(1)
    positions = ((ones - torch.arange(count, device=packed.device)) << low) | lower
    if count and not (bool((positions[1:] > positions[:-1]).all()) and int(positions[-1]) < numel):
        raise CheckpointError("the positions of the outliers are damaged", "fetch or compress the checkpoint again")
    return positions


def _low_bits(count: int, numel: int) -> int:
    return max(0, (numel // count).bit_length() - 1) if count else 0


def _index_bytes(count: int, numel: int) -> tuple[int, int]:
    """Bytes of the low and of the high parts of the positions."""
    if not count:
        return 0, 0
    low = _low_bits(count, numel)
    return -(-count * low // 8), -(-(count + ((numel - 1) >> low) + 1) // 8)


def _to_bytes(bits: Tensor, size: int) -> Tensor:
    padded = torch.zeros(8 * size, dtype=torch.int64, device=bits.device)
    padded[: bits.numel()] = bits
    return (padded.view(size, 8) << torch.arange(8, device=bits.device)).sum(1).to(torch.uint8)


def _to_bits(packed: Tensor) -> Tensor:
    return ((packed.long()[:, None] >> torch.arange(8, device=packed.device)) & 1).flatten()
