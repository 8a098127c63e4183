"""The operations of one decoding step, in plain torch: the definition of its result, bit for bit.

Sums run in 16 lanes: number i goes to lane i mod 16, each lane adds in order, and then the lanes' halves are added to
each other until one number is left. Every product and sum is rounded to float32, but where products with weights, keys
and values are summed: there a product and the sum that it is added to are rounded once, together.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

TILE = 16
SPAN = 64
"""Tokens that are attended to apart from the others; spans begin at multiples of it."""

BLOCK = 256
"""Places that are summed before one of them is drawn."""

REACH = 87.0
MAGIC = 12582912.0
"""1.5 · 2²³: a float32 to which this is added and from which it is taken again is a whole number."""


def fused(a: Float32[Tensor, "*a"], b: Float32[Tensor, "*b"], c: Float32[Tensor, "*c"]) -> Float32[Tensor, "*n"]:
    """a · b + c, rounded once (IEEE 754's fusedMultiplyAdd)."""
    product, added = a.double() * b.double(), c.double()
    total = product + added
    back = total - product
    lost = (product - (total - back)) + (added - back)
    # Halfway between two numbers of float32, what double precision lost (Knuth's TwoSum) decides.
    halfway = (total.view(torch.int64) & ((1 << 29) - 1)) == 1 << 28
    nudged = torch.nextafter(total, torch.copysign(torch.full_like(total, torch.inf), lost))
    return torch.where(halfway & (lost != 0), nudged, total).float()


def lane_sum(values: Float32[Tensor, "*batch n"]) -> Float32[Tensor, "*batch 1"]:
    """The sum of each row, in the order that is described above."""
    lanes = values.new_zeros(*values.shape[:-1], TILE)
    for piece in torch.nn.functional.pad(values, (0, -values.shape[-1] % TILE)).split(TILE, dim=-1):
        lanes = lanes + piece
    while lanes.shape[-1] > 1:
        upper, lower = lanes.chunk(2, dim=-1)
        lanes = upper + lower
    return lanes


def lane_product(values: Float32[Tensor, "*a n"], weights: Float32[Tensor, "*b n"]) -> Float32[Tensor, "*batch 1"]:
    """The sum of products, in the order that is described above."""
    pieces = (
        torch.nn.functional.pad(each, (0, -each.shape[-1] % TILE)).split(TILE, dim=-1) for each in (values, weights)
    )
    lanes = values.new_zeros(TILE)
    for value, weight in zip(*pieces, strict=True):
        lanes = fused(value, weight, lanes)
    return lane_sum(lanes)


def exponential(x: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
    """e^x within ±87, and of these bounds beyond: 2^n by its bits, times Taylor's polynomial of the rest."""
    x = x.clamp(-REACH, REACH)
    n = (x * 1.44269504 + MAGIC) - MAGIC
    rest = (x - n * 0.693359375) - n * -2.12194440e-4
    value = torch.full_like(rest, 1 / math.factorial(7))
    for power in range(6, -1, -1):
        value = value * rest + 1 / math.factorial(power)
    return value * ((n.int() + 127) << 23).view(torch.float32)


def rms(x: Float32[Tensor, "*batch width"], weight: Float32[Tensor, " width"], epsilon: float) -> Tensor:
    """weight · (x / root mean square)."""
    # Through float64, since torch's root of float32 is not the nearest on every processor.
    scale = 1.0 / (lane_sum(x * x) / x.shape[-1] + epsilon).double().sqrt().float()
    return weight * (x * scale)


def add_norm(
    residual: Float32[Tensor, "rows width"],
    delta: Float32[Tensor, "rows width"] | None,
    weight: Float32[Tensor, " width"],
    epsilon: float,
) -> Float32[Tensor, "rows width"]:
    """Add `delta` to `residual`, in place, and return its norm."""
    if delta is not None:
        residual += delta
    return rms(residual, weight, epsilon)


def dense(
    inputs: Float32[Tensor, "batch columns"],
    weight: Float[Tensor, "rows columns"],
    bias: Float32[Tensor, " rows"] | None,
) -> Float32[Tensor, "batch rows"]:
    """inputs · weightᵀ + bias of a float32 or bfloat16 weight."""
    sums = lane_product(inputs[:, None], weight.float())[..., 0]
    return sums if bias is None else sums + bias


def gate(found: Float32[Tensor, "rows both"]) -> Float32[Tensor, "rows inner"]:
    """silu(gate) · up of rows that hold both."""
    x, up = found.chunk(2, dim=-1)
    return x / (exponential(-x) + 1.0) * up


def likeliest(values: Float32[Tensor, "*batch n"]) -> Int64[Tensor, "..."]:
    """The place of the largest value, the first of several; -1 where that is no finite number."""
    largest = values.max(-1)
    return torch.where(largest.values.isfinite(), largest.indices, -1)


def drawn(values: Float32[Tensor, " n"], temperature: float, uniform: float) -> int:
    """The place that a number from 0 up to 1 falls on, places being as wide as e^(value / temperature).

    The largest value is finite. Blocks are summed first in float32, and their sums in double precision, as the shares
    of one block are.
    """
    largest = values.max()
    least = torch.finfo(torch.float32).tiny
    x = (values - largest) * (1.0 / torch.tensor(temperature, dtype=torch.float32).clamp_min(least))
    shares = _shares(x)
    blocks = torch.nn.functional.pad(shares, (0, -len(values) % BLOCK)).view(-1, BLOCK)
    ends = lane_sum(blocks)[:, 0].double().cumsum(0)
    # Rounding may place a number that is nearly 1 beyond the last that has a share.
    sought = torch.minimum(uniform * ends[-1], torch.nextafter(ends[-1], ends.new_zeros(())))
    block = int(torch.searchsorted(ends, sought, right=True))
    before = ends[block - 1 : block] if block else ends.new_zeros(1)
    within = torch.cat([before, blocks[block].double()]).cumsum(0)[1:]
    beyond = (within > sought).nonzero()
    return BLOCK * block + int(beyond[0] if len(beyond) else blocks[block].nonzero()[-1])


def attend(
    found: Float32[Tensor, " channels"],
    slot: int,
    position: int,
    cosine: Float32[Tensor, "positions half"],
    sine: Float32[Tensor, "positions half"],
    keys: Float[Tensor, "slots shared tiles width 16"],
    values: Float[Tensor, "slots shared tokens padded"],
    query_norm: Float32[Tensor, " width"] | None,
    key_norm: Float32[Tensor, " width"] | None,
    window: int,
    epsilon: float,
) -> Float32[Tensor, " out"]:
    """Put one token's keys and values into the cache, and return the attention of its queries.

    Args:
        found: the token's queries, keys and values.
        slot, position: of the token.
        cosine, sine: of the turns of all positions.
        keys, values: of one layer (octavo.models.static_cache); written in place.
        query_norm, key_norm: weights of the heads' norms.
        window: how many tokens are seen; 0 for all.
        epsilon: of the norms.
    """
    shared, width = keys.shape[1], keys.shape[3]
    heads = found.view(-1, width)
    queries, own_keys, own_values = heads.split([len(heads) - 2 * shared, shared, shared])
    if query_norm is not None and key_norm is not None:
        queries, own_keys = rms(queries, query_norm, epsilon), rms(own_keys, key_norm, epsilon)
    queries, own_keys = (_turned(each, cosine[position], sine[position]) for each in (queries, own_keys))
    keys[slot, :, position // TILE, :, position % TILE] = own_keys
    values[slot, :, position, :width] = own_values
    values[slot, :, position, width:] = 0

    queries = queries.view(shared, -1, width, 1, 1)
    begin = max(0, position + 1 - window) if window else 0
    largest, sums, mixed = [], [], []
    for start in range(begin // SPAN * SPAN, position + 1, SPAN):
        first, stop = max(begin, start), min(position + 1, start + SPAN)
        scores = _scores(queries, keys[slot], first, stop)
        largest.append(scores.amax(-1, keepdim=True))
        share = _shares(scores - largest[-1])
        sums.append(lane_sum(torch.nn.functional.pad(share, (first % TILE, 0))))
        found = queries.new_zeros(1)
        for i, token in enumerate(range(first, stop)):
            found = fused(values[slot, :, None, token, :width].float(), share[..., i, None], found)
        mixed.append(found)
    most = torch.stack(largest).amax(0)
    total, attended = torch.zeros_like(most), torch.zeros_like(mixed[0])
    for peak, part, found in zip(largest, sums, mixed, strict=True):
        factor = exponential(peak - most)
        total, attended = total + part * factor, attended + found * factor
    return (attended / total).flatten()


def _shares(x: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
    return torch.where(x < -REACH, 0.0, exponential(x))


def _scores(
    queries: Float[Tensor, "shared share width 1 1"], keys: Float[Tensor, "shared tiles width 16"], begin: int, end: int
) -> Float32[Tensor, "shared share tokens"]:
    width, first = keys.shape[2], begin // TILE
    scores = queries.new_zeros(1)
    for channel in range(width):
        scores = fused(keys[:, None, first : -(-end // TILE), channel].float(), queries[:, :, channel], scores)
    scores = scores * (1.0 / torch.tensor(width, dtype=torch.float32).sqrt())
    return scores.flatten(2)[..., begin - first * TILE : end - first * TILE]


def _turned(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
