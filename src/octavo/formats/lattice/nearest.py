"""The lattices Z, D4 and E8: bases, shortest vectors and offsets.

Constants: Conway and Sloane, Sphere Packings, Lattices and Groups, table 2.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from octavo.kernels.reference.lattice import nearest_e8, nearest_even, nearest_integers


@dataclass(frozen=True, eq=False)
class Lattice:
    """A lattice whose Voronoi cell has a facet for each of its shortest vectors, and no others.

    Attributes:
        name: as in tokens.
        basis: rows are basis vectors.
        nearest: the nearest lattice point of each row.
        second_moment: normalized second moment of the cell: mean squared error a coordinate over volume^(2/d).
        generic: a vector whose products with the shortest vectors are not whole, so that no lattice point less this
            vector lies on the boundary of the cell of any multiple of the lattice: the Weyl vector over a power of two
            above the Coxeter number. Zero for Z, where ties go down by themselves.
    """

    name: str
    basis: NDArray[np.float32]
    nearest: Callable[[Tensor], Tensor]
    second_moment: float
    generic: NDArray[np.float32]

    @property
    def dimension(self) -> int:
        return len(self.basis)

    @cached_property
    def volume(self) -> float:
        """Volume of the Voronoi cell."""
        return float(abs(np.linalg.det(self.basis.astype(np.float64))))

    @cached_property
    def inverse(self) -> NDArray[np.float32]:
        """Inverse of the basis; exact, its entries are multiples of one half."""
        doubled = 2 * np.linalg.inv(self.basis.astype(np.float64))
        return (np.round(doubled) / 2).astype(np.float32)

    @cached_property
    def shortest(self) -> NDArray[np.float32]:
        """The shortest vectors: ±e_i of Z, the 24 and 240 roots of D4 and E8."""
        d = self.dimension
        if d == 1:
            return np.array([[1], [-1]], np.float32)
        pairs = []
        for first in range(d):
            for second in range(first):
                for signs in product((1, -1), repeat=2):
                    root = np.zeros(d, np.float32)
                    root[[first, second]] = signs
                    pairs.append(root)
        halves = [np.array(signs, np.float32) / 2 for signs in product((1, -1), repeat=d) if signs.count(-1) % 2 == 0]
        return np.stack(pairs + (halves if d == 8 else []))


LATTICES = {
    lattice.name: lattice
    for lattice in (
        Lattice("z", np.array([[1]], np.float32), nearest_integers, 1 / 12, np.zeros(1, np.float32)),
        Lattice(
            "d4",
            np.array([[1, 1, 0, 0], [1, -1, 0, 0], [0, 1, -1, 0], [0, 0, 1, -1]], np.float32),
            nearest_even,
            0.076603,
            np.array([3 / 8, 2 / 8, 1 / 8, 0], np.float32),
        ),
        Lattice(
            "e8",
            np.concatenate(
                [
                    [[2, 0, 0, 0, 0, 0, 0, 0]],
                    np.eye(6, 8, k=1) - np.eye(6, 8),
                    np.full((1, 8), 0.5),
                ]
            ).astype(np.float32),
            nearest_e8,
            0.071682,
            np.array([0, 1 / 32, 2 / 32, 3 / 32, 4 / 32, 5 / 32, 6 / 32, 23 / 32], np.float32),
        ),
    )
}
"""The fixed lattices by name."""
