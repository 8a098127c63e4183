"""Voronoi codes: lattice points inside the Voronoi cell of the same lattice m times as large.

A lattice Λ of dimension d has m^d points modulo mΛ. A point's code is its coordinates in the basis modulo m, d digits
of an alphabet of m, so that no code is out of range and a weight takes log2 m bits whatever the lattice. Decoding takes
from all points of that code the one in the cell of mΛ around the origin: one nearest point of mΛ. The cell is rounder
than a cube, and so is what the code can reach.

Points lie in Λ - a: a generic offset a (octavo.formats.lattice.nearest) leaves none on the boundary of the cell, where
two of them would have to share a code, and balances them around the origin, which at 2 bits takes 1 to 3 % off the
error on normal data. Z has none: with m levels it is the two's complement -m/2 ... m/2 - 1.

A vector outside the cell (overload) starts at the code of itself shrunk into the cell, and moves by shortest vectors as
long as that lessens its error.

Source: Conway and Sloane, A fast encoding method for lattice codes and quantizers, IEEE Trans. Information Theory 29
(1983). The search under overload is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from numpy.typing import NDArray
from torch import Tensor

from octavo.formats.lattice.nearest import Lattice
from octavo.kernels.reference.lattice import reduced, voronoi_points

MOVES = 12
"""Moves by shortest vectors under overload, at most."""

TRIED = 6
"""Of the shortest vectors, those that promise most are tried at each move."""

LISTED = 1 << 16
"""Up to so many points are listed once and looked up; E8 at 2 bits, D4 at 4."""

SHRINKS = (0.0, 0.5, 1.0)
"""How far inside the cell an overloaded vector may start, in lattice steps."""


@dataclass(frozen=True)
class VoronoiCode:
    """The Voronoi code of a lattice.

    Attributes:
        lattice: the lattice.
        size: m, 2 to 256.
    """

    lattice: Lattice
    size: int

    def decode(self, codes: UInt8[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The points of codes, float32."""
        listed = self.listed
        if listed is None:
            return self._computed(codes)
        places = torch.from_numpy(self.size ** np.arange(self.lattice.dimension, dtype=np.int32)).to(codes.device)
        return listed.to(codes.device)[(codes * places).sum(-1)]

    @property
    def listed(self) -> Float32[Tensor, "points d"] | None:
        """The points of all codes, the first digit changing fastest; None if there are too many."""
        return torch.from_numpy(_points(self)) if self.size**self.lattice.dimension <= LISTED else None

    def _computed(self, codes: UInt8[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        basis = torch.from_numpy(self.lattice.basis).to(codes.device)
        return voronoi_points(codes, basis, self._offset(codes), self.size)

    def encode(self, vectors: Float[Tensor, "n d"]) -> UInt8[Tensor, "n d"]:
        """Codes of the nearest points, where these are in the code; of near ones elsewhere."""
        inverse = torch.from_numpy(self.lattice.inverse).to(vectors.device)
        return ((self.nearest(vectors) + self._offset(vectors)) @ inverse).remainder(self.size).to(torch.uint8)

    def nearest(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The points that `encode` finds the codes of."""
        points = self._shifted(vectors)
        over = (self._inside(points) != points).any(-1).nonzero().flatten()
        if len(over):
            points[over] = self._overloaded(vectors[over])
        return points

    def _offset(self, like: Tensor) -> Tensor:
        return torch.from_numpy(self.lattice.generic).to(like.device)

    def _shifted(self, vectors: Tensor) -> Tensor:
        """The nearest points of the lattice less its offset."""
        offset = self._offset(vectors)
        return self.lattice.nearest(vectors + offset) - offset

    def _inside(self, points: Tensor) -> Tensor:
        """The points of the same code inside the cell."""
        return reduced(points, self.size)

    def _overloaded(self, vectors: Tensor) -> Tensor:
        shortest = torch.from_numpy(self.lattice.shortest).to(vectors.device)
        square = float(shortest[0].square().sum())
        reach = 2 * (vectors @ shortest.T).amax(-1, keepdim=True) / (square * self.size)
        onto = vectors / reach.clamp_min(1)
        best, least = vectors, vectors.new_full((len(vectors), 1), torch.inf)
        for steps in SHRINKS:
            start = self._shifted(onto * (1 - steps / self.size))
            best, least = _nearer(vectors, best, least, self._inside(start))
        for _ in range(MOVES):
            gain, which = ((vectors - best) @ shortest.T).topk(min(TRIED, len(shortest)), dim=-1)
            before = least
            for column in range(which.shape[1]):
                moved = best + shortest[which[:, column]]
                inside = (self._inside(moved) == moved).all(-1, keepdim=True) & (gain[:, column, None] > square / 2)
                best, least = _nearer(vectors, best, least, torch.where(inside, moved, best))
            if bool((least == before).all()):
                break
        return best


@cache
def _points(code: VoronoiCode) -> NDArray[np.float32]:
    """The points of all codes, the first digit changing fastest."""
    d = code.lattice.dimension
    numbers = np.arange(code.size**d)[:, None] // code.size ** np.arange(d) % code.size
    return code._computed(torch.from_numpy(numbers.astype(np.uint8))).numpy()


def _nearer(vectors: Tensor, best: Tensor, least: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The nearer ones of two points each, with their squared errors."""
    error = (points - vectors).square().sum(-1, keepdim=True)
    nearer = error < least
    return torch.where(nearer, points, best), torch.where(nearer, error, least)
