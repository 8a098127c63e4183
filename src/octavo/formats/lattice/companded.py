"""A companded lattice: the points z of a box of half-integers stand for the vectors F⁻¹(G z).

G is a small matrix and F the μ-law of octavo.formats.lattice.companding, so that decoding is one matrix product and an
elementwise map. Errors count by a metric M of each vector, eᵀ M e. Near a vector x an error of G z is D = F⁻¹'(F(x))
times as large in the values, so points are looked for by integer least squares with A = Gᵀ D M D G, and the best of
those found is taken by its true error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from octavo.formats.lattice.companding import compand, slope
from octavo.formats.lattice.k_best import k_best
from octavo.kernels.reference.lattice import expand

VECTORS_AT_ONCE = 1 << 13
"""Vectors that are rounded together: the metrics of all of them are in memory."""


def top_of(bits: int) -> float:
    """The largest half-integer of a code of so many bits."""
    return (2**bits - 1) / 2


@dataclass(frozen=True, eq=False)
class CompandedLattice:
    """One lattice.

    Attributes:
        basis: G, its columns are basis vectors, in companded units.
        mu: of the companding, above 0.
    """

    basis: Float[Tensor, "d d"]
    mu: Float[Tensor, ""]

    def values(self, points: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """The vectors that points stand for."""
        return expand(points @ self.basis.T, self.mu)

    def stored(self) -> CompandedLattice:
        """As it comes back from float16."""
        return CompandedLattice(self.basis.half().to(self.basis), self.mu.half().to(self.mu))

    def nearest(
        self, vectors: Float32[Tensor, "n d"], metrics: Float32[Tensor, "_ d d"], bits: int, kept: int
    ) -> tuple[Float32[Tensor, "n d"], Float32[Tensor, " n"]]:
        """The points found nearest, and their errors.

        Args:
            vectors: what to round.
            metrics: M, one for all vectors or one for each, positive semidefinite.
            bits: of each coordinate of a point.
            kept: see `k_best`.
        """
        points, errors = torch.empty_like(vectors), vectors.new_empty(len(vectors))
        for start in range(0, len(vectors), VECTORS_AT_ONCE):
            part = slice(start, start + VECTORS_AT_ONCE)
            own = metrics if len(metrics) == 1 else metrics[part]
            points[part], errors[part] = self._nearest(vectors[part], own, bits, kept)
        return points, errors

    def _nearest(self, vectors: Tensor, metrics: Tensor, bits: int, kept: int) -> tuple[Tensor, Tensor]:
        center = torch.linalg.solve(self.basis, compand(vectors, self.mu).T).T
        stretched = slope(vectors, self.mu)[..., None] * self.basis
        found = k_best(stretched.transpose(1, 2) @ metrics @ stretched, center, top_of(bits), kept)
        difference = self.values(found) - vectors[:, None]
        errors = ((difference @ metrics) * difference).sum(-1)
        error, best = errors.min(1, keepdim=True)
        return found.gather(1, best[..., None].expand(-1, -1, found.shape[2]))[:, 0], error[:, 0]
