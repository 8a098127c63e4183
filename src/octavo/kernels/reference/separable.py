"""Values of integer grid codes whose step is a row factor times a column factor, in plain torch."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor


def separable_dequantize(
    codes: Int[Tensor, "rows cols"],
    row_step: Float32[Tensor, " rows"],
    column_step: Float32[Tensor, " cols"],
    reconstruction: Float32[Tensor, " points"] | None,
    dtype: torch.dtype,
) -> Float[Tensor, "rows cols"]:
    """value[i, j] = point(code[i, j]) * (row_step[i] * column_step[j]), every product rounded to float32.

    `point(q)` is `reconstruction[q + half]` for |q| <= half, of an odd number of points 2 * half + 1, and q otherwise.
    """
    points = codes.float()
    if reconstruction is not None:
        half = reconstruction.numel() // 2
        within = codes.int().abs() <= half
        index = (codes.long() + half).clamp(0, 2 * half)
        points = torch.where(within, reconstruction[index], points)
    return (points * (row_step.unsqueeze(1) * column_step.unsqueeze(0))).to(dtype)
