"""Root-mean-square normalization (Zhang and Sennrich, 2019, https://arxiv.org/abs/1910.07467)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def rms_norm(
    inputs: Float[Tensor, "*batch width"], weight: Float[Tensor, " width"], epsilon: float
) -> Float[Tensor, "*batch width"]:
    """Vectors divided by the root of their mean square, times a weight; in float32, then in the inputs' dtype."""
    wide = inputs.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return weight * (wide * scale).to(inputs.dtype)
