"""Lloyd-Max codebooks from data: one-dimensional k-means on a sorted sample.

Each step moves every centroid to the (weighted) mean of its cell. Two starts are run and the better result kept: the
customary one (k-means++ for RMS-scaled data, uniform for absmax-scaled data), and centroids spread with the cube root
of the sample's own density, which is close to the optimum already. Above 2^20 values the fit runs on a random subset of
so many: k centroids fitted to n values have an excess error of about k/n, so more data buys nothing. The fit is a pure
function of its arguments: its draws come from a generator of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.formats.elements.element import base_statistic
from octavo.formats.elements.sorted_sample import SortedSample, subset
from octavo.formats.elements.tokens import element_token, refuse_unknown
from octavo.measure.sources import Array

SAMPLE = 2**20
TOLERANCE = 1e-5
"""A fit has converged when a step moves less than this share of the values to another centroid."""
MOST_STEPS = 3000


@dataclass(frozen=True)
class LloydMax:
    """The centroids of least (weighted) squared error for the data at hand, in units of its scales.

    Attributes:
        levels: number of centroids.
    """

    levels: int

    @property
    def stored(self) -> bool:
        return True

    @property
    def data_driven(self) -> bool:
        return True

    def span(self, statistic: str, block: int | None) -> float:
        return 1.0

    def codebook(self, statistic: str, block: int | None) -> Float[Tensor, " levels"]:
        raise FormatError(f"{self} is fitted to data", "use lloyd-normal, lloyd-laplace or lloyd-t without data")

    def fit(
        self, values: Float[Tensor, " n"], weights: Float[Tensor, " n"] | None, statistic: str, block: int | None
    ) -> Float[Tensor, " levels"]:
        sample = SortedSample.of(*subset(values, weights, SAMPLE))
        if base_statistic(statistic, block) in ("absmax", "signmax"):
            customary = np.linspace(-1, 1, self.levels)
        else:
            customary = plus_plus_start(sample, self.levels)
        starts = (customary, density_start(sample, self.levels))
        best = min((converge(sample, start) for start in starts), key=sample.error)
        return torch.from_numpy(best).float()

    def __str__(self) -> str:
        return element_token("lloyd", {}, self.levels)


def converge(sample: SortedSample, centroids: Array) -> Array:
    """Lloyd steps until hardly a value changes its cell; the error never rises on the way."""
    edges = sample.edges(centroids)
    for _ in range(MOST_STEPS):
        centroids = sample.means(centroids)
        before, edges = edges, sample.edges(centroids)
        if np.abs(edges - before).sum() <= TOLERANCE * len(sample.values):
            break
    return sample.means(centroids)


def plus_plus_start(sample: SortedSample, levels: int, count: int = 2**14) -> Array:
    """k-means++: each centroid drawn with probability proportional to its squared distance to the ones before."""
    draws = np.random.default_rng(levels)
    chosen = np.sort(draws.integers(len(sample.values), size=min(count, len(sample.values))))
    values = sample.values[chosen].astype(np.float64)
    weights = np.diff(sample.mass)[chosen]
    centroids = [_draw(values, weights, draws)]
    distance = np.full(len(values), np.inf)
    for _ in range(levels - 1):
        distance = np.minimum(distance, (values - centroids[-1]) ** 2)
        centroids.append(_draw(values, weights * distance, draws))
    return np.sort(centroids)


def _draw(values: Array, shares: Array, draws: np.random.Generator) -> float:
    total = np.cumsum(shares)
    return float(values[min(np.searchsorted(total, draws.random() * total[-1], side="right"), len(values) - 1)])


def density_start(sample: SortedSample, levels: int) -> Array:
    """Centroids spread with the cube root of the sample's (weighted) density."""
    return sample.powered_quantiles((np.arange(levels) + 0.5) / levels, 1 / 3)


def parse_lloyd_max(arguments: dict[str, str], levels: int | None) -> LloydMax:
    """`lloyd@3`, `lloyd(levels=11)`."""
    refuse_unknown("lloyd", arguments, {})
    if levels is None:
        raise FormatError("lloyd needs a size", "write lloyd@4 or lloyd(levels=11)")
    return LloydMax(levels)
