"""Root-mean-square normalization (Zhang and Sennrich, 2019, https://arxiv.org/abs/1910.07467)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def rms_norm(
    inputs: Float[Tensor, "*batch width"], weight: Float[Tensor, " width"], epsilon: float
) -> Float[Tensor, "*batch width"]:
    """Vectors divided by the root of their mean square, times a weight; in float32, then in the inputs' dtype."""
    wide = inputs.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return weight * (wide * scale).to(inputs.dtype)


class RMSNorm(nn.Module):
    """The same with a trained weight, which starts as ones.

    Args:
        width: of the vectors.
        epsilon: added to the mean square.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, inputs: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        return rms_norm(inputs, self.weight, self.epsilon)
