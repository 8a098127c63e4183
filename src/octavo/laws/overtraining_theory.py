"""Why a longer pretraining can hurt: two linear layers that learn a matrix, and what noise on their weights costs.

For ½‖W₁W₂ − A‖² with A of singular values σ_i, gradient flow from a small balanced start u₀ learns the modes one by
one, the large ones first, and the weights grow as it does. What noise costs grows with the weights, so that past some
time the loss after noise rises although the loss itself still falls (arXiv 2503.19206).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray


@dataclass(frozen=True)
class TwoLayers:
    """The problem.

    Attributes:
        values: singular values of A, positive, the largest first.
        width: d, rows and columns of A.
        start: u₀, what every mode begins with.
    """

    values: tuple[float, ...]
    width: int
    start: float = 1e-4

    @classmethod
    def harmonic(cls, width: int = 64, start: float = 1e-4) -> TwoLayers:
        """Singular values 1, 1/2, 1/3, …, as many as the width."""
        return cls(tuple(1 / (1 + i) for i in range(width)), width, start)

    @property
    def rank(self) -> int:
        """r, the width between the layers."""
        return len(self.values)

    def learned(self, time: float) -> Float[ndarray, " rank"]:
        """u_i(t), what each mode has come to."""
        sigma = np.array(self.values)
        return sigma / (1 + (sigma / self.start - 1) * np.exp(-2 * sigma * time))

    def loss(self, learned: Float[ndarray, " rank"], noise: float = 0.0) -> float:
        """Expected ½‖W₁W₂ − A‖² when every entry of both layers gets normal noise of that standard deviation."""
        missed = float(((np.array(self.values) - learned) ** 2).sum())
        return 0.5 * (missed + 2 * self._added(learned, noise))

    def sensitivity(self, time: float, noise: float) -> float:
        """What the noise adds to the loss at a time: dγ²Σu_i + ½d²rγ⁴."""
        return self._added(self.learned(time), noise)

    def threshold(self, noise: float) -> float:
        """Learning a mode whole pays only if its σ is above this: 2dγ²."""
        return 2 * self.width * noise**2

    def lower_bound(self, noise: float) -> float:
        """The least loss under that noise, with u_i = max(0, σ_i − dγ²)."""
        return self.loss(np.maximum(0.0, np.array(self.values) - self.width * noise**2), noise)

    def layers(self, learned: Float[ndarray, " rank"]) -> tuple[Float[ndarray, "d rank"], Float[ndarray, "rank d"]]:
        """Balanced layers of these modes, for A diagonal."""
        first = np.zeros((self.width, self.rank))
        np.fill_diagonal(first, np.sqrt(learned))
        return first, first.T.copy()

    def _added(self, learned: Float[ndarray, " rank"], noise: float) -> float:
        return float(self.width * noise**2 * learned.sum() + 0.5 * self.width**2 * self.rank * noise**4)
