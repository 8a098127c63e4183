"""A sorted sample with running sums: the cells of any codebook cost O(levels·log n), never a [n, levels] matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.measure.scalar import midpoints
from octavo.measure.sources import Array


@dataclass(frozen=True, eq=False)
class SortedSample:
    """Values in ascending order with running sums of w, w·x and w·x² (float64, one longer than the values).

    Attributes:
        values: sorted, float32.
        mass, first, second: the running sums, starting at 0.
    """

    values: NDArray[np.float32]
    mass: Array
    first: Array
    second: Array

    @classmethod
    def of(cls, values: Float[Tensor, " n"], weights: Float[Tensor, " n"] | None) -> SortedSample:
        """Sort a sample; without weights every value counts 1.

        Raises:
            FormatError: no values, or weights that are negative or not finite.
        """
        if values.numel() == 0:
            raise FormatError("a codebook cannot be fitted to no values", "quantize a tensor that is not empty")
        plain = values.detach().float().cpu().numpy()
        if weights is None:
            ordered = np.sort(plain)
            counts = np.ones(len(ordered))
        else:
            given = weights.detach().double().cpu().numpy()
            if not (np.isfinite(given).all() and (given >= 0).all()):
                raise FormatError("weights of a codebook fit must be finite and not negative", "check the importance")
            order = np.argsort(plain)
            ordered, counts = plain[order], given[order]
        wide = ordered.astype(np.float64)
        return cls(ordered, *(_running(counts * power) for power in (1.0, wide, wide**2)))

    def edges(self, codebook: Array) -> NDArray[np.int64]:
        """Where each centroid's cell starts in the sorted values, and where the last one ends."""
        inner = np.searchsorted(self.values, midpoints(codebook).astype(np.float32), side="right")
        return np.concatenate([[0], inner, [len(self.values)]])

    def means(self, codebook: Array) -> Array:
        """The weighted mean of each cell; an empty cell keeps its centroid. Stays sorted."""
        edges = self.edges(codebook)
        mass, first = np.diff(self.mass[edges]), np.diff(self.first[edges])
        filled = mass > 0
        means = np.where(filled, first / np.where(filled, mass, 1), codebook)
        return np.maximum.accumulate(means)

    def error(self, codebook: Array) -> float:
        """Weighted sum of squared errors of nearest-centroid rounding."""
        edges = self.edges(codebook)
        mass, first = np.diff(self.mass[edges]), np.diff(self.first[edges])
        return max(float(self.second[-1] + codebook @ (mass * codebook - 2 * first)), 0.0)

    def powered_quantiles(self, shares: Array, power: float, bins: int = 2048) -> Array:
        """Quantiles of the law whose density is the sample's (weighted) density to a power between 0 and 1."""
        # Equal shares in the middle, ever halved shares in the tails: one wide last bin would claim much for nothing.
        tail = 2.0 ** np.arange(-24, -np.log2(bins))
        edges = np.concatenate([[0.0], tail, np.linspace(0, 1, bins + 1)[1:-1], 1 - tail[::-1], [1.0]])
        position = np.clip(np.searchsorted(self.mass, edges * self.mass[-1]), 1, len(self.values)) - 1
        knots = self.values[position].astype(np.float64)
        # Where the density is share/width, its power p has the integral share^p·width^(1-p) over the bin.
        spread = np.diff(edges) ** power * np.diff(knots) ** (1 - power)
        running = np.concatenate([[0.0], np.cumsum(spread)])
        return np.interp(shares * running[-1], running, knots)


def _running(terms: Array) -> Array:
    return np.concatenate([[0.0], np.cumsum(terms)])


def subset(
    values: Float[Tensor, " n"], weights: Float[Tensor, " n"] | None, count: int
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"] | None]:
    """At most `count` of the values, drawn with replacement, the same draw for the same sizes."""
    if values.numel() <= count:
        return values, weights
    chosen = torch.randint(values.numel(), (count,), generator=torch.Generator().manual_seed(count)).to(values.device)
    return values[chosen], None if weights is None else weights[chosen]
