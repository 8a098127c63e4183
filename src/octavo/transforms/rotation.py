"""Orthogonal matrices: drawn at random, and as functions of a free matrix so that gradients can move them."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from octavo.transforms.hadamard import hadamard_transform

Method = Literal["cayley", "expm"]


def random_orthogonal(size: int, generator: torch.Generator) -> Float[Tensor, "n n"]:
    """An orthogonal matrix drawn uniformly (Haar), float64.

    Source: Mezzadri, "How to generate random matrices from the classical compact groups", 2007.
    """
    normal = torch.randn(size, size, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(normal)
    # The factorization alone prefers some signs.
    return q * torch.sign(torch.diagonal(r))


def random_hadamard(size: int, generator: torch.Generator, block: int | None = None) -> Float[Tensor, "n n"]:
    """A Hadamard matrix (block-diagonal, with `block`) whose columns have random signs, float64: H·diag(±1)."""
    signs = torch.randint(0, 2, (size,), generator=generator).double() * 2 - 1
    return hadamard_transform(torch.diag(signs), block).T.contiguous()


def rotation_of(free: Float[Tensor, "*batch n n"], method: Method = "cayley") -> Float[Tensor, "*batch n n"]:
    """The rotation of a free matrix M: with S = (M - Mᵀ)/2, expm(S), or Cayley's (I - S/2)⁻¹(I + S/2).

    Both are the identity at zero and agree to second order. Cayley's costs one solve, forwards and backwards; it
    reaches every rotation that turns no plane by half a circle.
    """
    skew = (free - free.mT) / 2
    if method == "expm":
        return torch.linalg.matrix_exp(skew)
    identity = torch.eye(free.shape[-1], dtype=free.dtype, device=free.device).expand_as(free)
    return torch.linalg.solve(identity - skew / 2, identity + skew / 2)
