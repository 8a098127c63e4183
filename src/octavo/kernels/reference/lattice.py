"""Lattice codes in plain torch: nearest points of Z^n, D4 and E8, Voronoi codes, and the μ-law of companded lattices.

Nearest points are exact and need no tables:

- Z^n: every coordinate is rounded.
- D_n, the whole vectors of even sum: round every coordinate; if the sum is odd, round the coordinate of largest error
  the other way.
- E8 is D8 and D8 + (1/2, ..., 1/2): the nearer one of the two nearest points.

Ties between integers go down, all others as the order of the coordinates has it. Coordinates that are small multiples
of a power of two, as those of lattice points and of their halves are, are rounded without any error.

Source: Conway and Sloane, Fast quantizing and decoding algorithms for lattice quantizers and codes, IEEE Trans.
Information Theory 28 (1982), and A fast encoding method for lattice codes and quantizers, 29 (1983).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def nearest_integers(points: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """The nearest point of Z^d, ties down."""
    return torch.ceil(points - 0.5)


def nearest_even(points: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """The nearest point of D_d: whole coordinates of even sum."""
    rounded = nearest_integers(points)
    error = points - rounded
    worst = error.abs().argmax(-1, keepdim=True)
    other_way = torch.where(error.gather(-1, worst) > 0, 1.0, -1.0).to(points)
    odd = rounded.sum(-1, keepdim=True) % 2
    return rounded.scatter_add(-1, worst, other_way * odd)


def nearest_e8(points: Float[Tensor, "n 8"]) -> Float[Tensor, "n 8"]:
    """The nearest point of E8."""
    whole = nearest_even(points)
    half = nearest_even(points - 0.5) + 0.5
    nearer = (points - half).square().sum(-1, keepdim=True) < (points - whole).square().sum(-1, keepdim=True)
    return torch.where(nearer, half, whole)


NEAREST = {1: nearest_integers, 4: nearest_even, 8: nearest_e8}
"""By the dimension of a fixed lattice."""


def voronoi_points(
    codes: UInt8[Tensor, "n d"], basis: Float[Tensor, "d d"], offset: Float[Tensor, " d"], size: int
) -> Float[Tensor, "n d"]:
    """The points of Voronoi codes, digits below `size`, of a lattice less an offset."""
    return reduced(codes.float() @ basis - offset, size)


def reduced(points: Float[Tensor, "n d"], size: int) -> Float[Tensor, "n d"]:
    """The points of the same code in the cell of the lattice `size` times as large; of Z, at its ends, the lower."""
    # Ties of the nearest point go down; those of its mirror image go up.
    return points + size * NEAREST[points.shape[1]](-points / size)


def expand(values: Float[Tensor, "*n"], mu: Float[Tensor, ""]) -> Float[Tensor, "*n"]:
    """The inverse of μ-law companding: sign(y) ((1 + μ)^|y| - 1) / μ."""
    return torch.sign(values) * torch.expm1(values.abs() * torch.log1p(mu)) / mu


def companded_points(
    codes: UInt8[Tensor, "n d"], basis: Float[Tensor, "d d"], mu: Float[Tensor, ""], size: int
) -> Float[Tensor, "n d"]:
    """The vectors that the half-integers behind digits below `size` stand for."""
    return expand((codes.float() - (size - 1) / 2) @ basis.T, mu)
