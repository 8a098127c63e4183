"""The values that microscaling formats have for weights, without codes: what a step of training needs of them.

Codes, and the tables that lead back from them, cost many times what the values do. A float of m mantissa bits is
rounded by adding and taking off 1.5·2^(23 - m + e), with e the weight's exponent, or the smallest normal one where that
is larger: float32 itself then rounds where the element's last bit is, ties to even. Bits are those of
octavo.formats.microscaling.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from octavo.formats.microscaling import Microscaling, nvfp4_factor
from octavo.formats.scaling import blocks_of, row_ranges, unchecked_statistic

_EXPONENT = 0x7F800000
"""Bits of a float32's exponent."""


def microscaled_values(element: Microscaling, matrix: Float[Tensor, "rows columns"]) -> Float32[Tensor, "rows columns"]:
    """What is stored for a matrix in a microscaling format; NaN where a weight is."""
    rows, columns = matrix.shape
    absmax = unchecked_statistic(matrix, element.scaling)
    scales, level = element.scale_values(absmax, absmax.max())
    if level is None:
        divisors, factors = scales.clamp_min(2.0**-126), scales
    else:
        divisors, factors = nvfp4_factor(level, scales), level * scales
    run = element.scaling.run(columns)
    values = torch.empty(rows, columns, dtype=torch.float32, device=matrix.device)
    # Groups that stay in the cache are a processor's need; a GPU wants few launches.
    for part in row_ranges(rows, columns) if matrix.device.type == "cpu" else [slice(0, rows)]:
        done = 0
        for weights, found in zip(blocks_of(matrix[part], run), blocks_of(values[part], run), strict=True):
            own = slice(done, done + weights.shape[1])
            divisor, factor = divisors[part, own, None], factors[part, own, None]
            scaled = weights.float() * divisor if element.two_level else weights.float() / divisor
            torch.mul(_nearest(element, scaled), factor, out=found)
            done += weights.shape[1]
    return values


def _nearest(element: Microscaling, scaled: Float32[Tensor, "rows blocks run"]) -> Float32[Tensor, "rows blocks run"]:
    """The nearest elements, ties to even, saturating; works in place."""
    if not element.exponent:
        largest, steps = 2**element.mantissa - 1, 2.0 ** (element.mantissa - 1)
        # The zero of an integer has no sign.
        return scaled.mul_(steps).round_().clamp_(-largest, largest).mul_(1 / steps).add_(0.0)
    scaled.clamp_(-element.largest, element.largest)
    smallest = 2.0 ** (2 - 2 ** (element.exponent - 1))
    powers = (scaled.view(torch.int32) & _EXPONENT).view(torch.float32)
    shift = powers.clamp_min_(smallest).mul_(1.5 * 2.0 ** (23 - element.mantissa))
    return ((scaled + shift).sub_(shift)).copysign_(scaled)
