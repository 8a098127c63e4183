"""μ-law companding: spread small values, squeeze large ones, so that an even grid resolves a heavy tail less finely.

F(x) = sign(x) ln(1 + μ|x|) / ln(1 + μ) fixes -1, 0 and 1; as μ goes to 0 it becomes the identity.

Source: "Learning Grouped Lattice Vector Quantizers for Low-Bit LLM Compression" (arXiv 2510.20984), equation of the
companding function; ITU-T G.711 for the law.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def compand(values: Float[Tensor, "*n"], mu: Float[Tensor, ""]) -> Float[Tensor, "*n"]:
    """F of each value, μ > 0."""
    return torch.sign(values) * torch.log1p(mu * values.abs()) / torch.log1p(mu)


def slope(values: Float[Tensor, "*n"], mu: Float[Tensor, ""]) -> Float[Tensor, "*n"]:
    """How much faster than companded values the values themselves change: 1 / F'(x)."""
    return (1 + mu * values.abs()) * torch.log1p(mu) / mu
