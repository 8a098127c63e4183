"""Cube-root codebooks: centroids are quantiles of a power of the data's density.

Scaled by RMS, centroid i of n is the quantile of i/(n+1). Scaled by the block maximum, the law is truncated at the
expected maximum and the probabilities are equally spaced including both ends, so that the outer centroids are ±1.
Without a zero the codebook is `symmetric`; `asymmetric` has a zero and one centroid more above it than below (for an
odd number the two are the same). Under signmax the largest weight is always +1, so there is no -1.

Source: "Optimal Formats for Weight Quantisation" (arXiv 2505.12988); general powers: Panter and Dite, Proc. IRE 39.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.formats.densities import Uniform, expected_absmax, powered
from octavo.formats.elements.element import TENSOR_BLOCK, base_statistic
from octavo.formats.elements.sorted_sample import SortedSample, subset
from octavo.formats.elements.tokens import element_token, number_text, real_number, refuse_unknown
from octavo.measure.scalar import best_multiplier
from octavo.measure.sources import Array, Source, source

FITTED_DF = tuple(float(df) for df in np.geomspace(3, 100, 12))
"""The degrees of freedom that `df=fit` tries."""

FITTED_MULTIPLIERS = tuple(float(2**exponent) for exponent in np.linspace(-1, 1, 17))
"""The multipliers of the moment-matched scale that `df=fit` tries with each, where no end is pinned to the maximum."""

FIT_SAMPLE = 2**20


@dataclass(frozen=True)
class CubeRoot:
    """Quantiles of a unit-RMS source's density to the power alpha.

    Attributes:
        family: `normal`, `laplace` or `t`.
        levels: number of centroids.
        df: degrees of freedom of `t` (above 2), or "fit": the best of `FITTED_DF` for the data; None for the others.
        alpha: power of the density; 1/3 has the least squared error, 1 equal occupancy, 0 is a uniform grid.
        variant: `symmetric` (no zero for an even number) or `asymmetric` (with zero).
    """

    family: str
    levels: int
    df: float | Literal["fit"] | None = None
    alpha: float = 1 / 3
    variant: str = "symmetric"

    @property
    def stored(self) -> bool:
        return True

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 16:
            raise FormatError(f"alpha={self.alpha:g} is out of range", "give 0 to 16; 1/3 is the cube root")
        if self.alpha > 0:
            powered(self._source(FITTED_DF[0] if self.df == "fit" else self.df), self.alpha)

    @property
    def data_driven(self) -> bool:
        return self.df == "fit"

    def _source(self, df: float | Literal["fit"] | None) -> Source:
        if df == "fit":
            raise FormatError(f"{self} is fitted to data", "give df a number to have a codebook without data")
        return source(self.family, df)

    def span(self, statistic: str, block: int | None) -> float:
        if base_statistic(statistic, block) == "absmean" and not self.data_driven:
            return self._source(self.df).mean_absolute
        return 1.0

    def codebook(self, statistic: str, block: int | None) -> Float[Tensor, " levels"]:
        """Sorted float32 centroids in units of the scale.

        Raises:
            FormatError: the degrees of freedom are fitted.
        """
        return torch.from_numpy(self._centroids(self._source(self.df), statistic, block)).float()

    def fit(
        self, values: Float[Tensor, " n"], weights: Float[Tensor, " n"] | None, statistic: str, block: int | None
    ) -> Float[Tensor, " levels"]:
        """The codebook of least (weighted) squared error among the fitted degrees of freedom and multipliers."""
        if not self.data_driven:
            return self.codebook(statistic, block)
        sample = SortedSample.of(*subset(values, weights, FIT_SAMPLE))
        base = base_statistic(statistic, block)
        multipliers = (1.0,) if base in ("absmax", "signmax") else FITTED_MULTIPLIERS
        candidates = []
        for df in FITTED_DF:
            law = self._source(df)
            unit = law.mean_absolute if base == "absmean" else 1.0
            centroids = self._centroids(law, statistic, block) / unit
            candidates += [centroids * multiplier for multiplier in multipliers]
        return torch.from_numpy(min(candidates, key=sample.error)).float()

    def _centroids(self, law: Source, statistic: str, block: int | None) -> Array:
        base = base_statistic(statistic, block)
        closed = base in ("absmax", "signmax")
        reach = 1.0
        if self.alpha == 0:
            if not closed:
                return self._uniform(law)
            centroid_law = Uniform()
        else:
            centroid_law = powered(law, self.alpha)
            if closed:
                reach = expected_absmax(law, TENSOR_BLOCK if block is None else block)
        # Lower tail probability beyond which there is no centroid; everything is computed in the lower half, where
        # quantiles are accurate, and mirrored.
        tail = float(centroid_law.cdf(np.array(-reach))) if closed else 0.0

        def below(probabilities: Array, ends_at_one: bool) -> Array:
            found = centroid_law.ppf(probabilities) / reach
            if ends_at_one and len(found):
                found[0] = -1.0
            return found

        def half(count: int, with_end: bool) -> Array:
            """`count` centroids below zero, equally spaced in probability from the end to zero."""
            steps = count if with_end else count + 1
            first = 0 if with_end else 1
            probabilities = tail + (0.5 - tail) * np.arange(first, first + count) / max(steps, 1)
            return below(probabilities, with_end)

        n = self.levels
        if base == "signmax":
            lower, upper, middle = half(n - 1 - n // 2, False), half(n // 2, True), [0.0]
        elif self.variant == "asymmetric" or n % 2:
            lower, upper, middle = half((n - 1) // 2, closed), half(n // 2, closed), [0.0]
        else:
            rank = np.arange(n // 2)
            steps = tail + rank * (1 - 2 * tail) / (n - 1) if closed else (rank + 1) / (n + 1)
            lower = upper = below(steps, closed)
            middle = []
        return np.concatenate([lower, middle, -upper[::-1]])

    def _uniform(self, law: Source) -> Array:
        """alpha = 0 without ends: the uniform grid whose step has least squared error on the source."""
        below = (self.levels - 1) // 2 if self.variant == "asymmetric" else (self.levels - 1) / 2
        grid = np.arange(self.levels, dtype=np.float64) - below
        return grid * best_multiplier(grid, law)

    def __str__(self) -> str:
        arguments = {}
        if self.df is not None:
            arguments["df"] = self.df if isinstance(self.df, str) else number_text(self.df)
        if self.alpha != 1 / 3:
            arguments["alpha"] = number_text(self.alpha)
        if self.variant != "symmetric":
            arguments["variant"] = self.variant
        return element_token(f"cbrt-{self.family}", arguments, self.levels)


def parse_cube_root(family: str, arguments: dict[str, str], levels: int | None) -> CubeRoot:
    """`cbrt-normal@4`, `cbrt-laplace(alpha=1/2)@3`, `cbrt-t(df=5,variant=asymmetric)@4`, `cbrt-t(df=fit)@3`.

    Raises:
        FormatError: no size, no df for t, or an argument out of range.
    """
    name = f"cbrt-{family}"
    allowed = {"alpha": None, "variant": ("symmetric", "asymmetric")}
    refuse_unknown(name, arguments, {"df": None, **allowed} if family == "t" else allowed)
    if levels is None:
        raise FormatError(f"{name} needs a size", f"write {name}@4 or {name}(levels=11)")
    element = CubeRoot(
        family,
        levels,
        parse_df(name, arguments) if family == "t" else None,
        real_number(arguments.get("alpha", "1/3"), "alpha"),
        arguments.get("variant", "symmetric"),
    )
    return replace(element, variant="symmetric") if levels % 2 else element


def parse_df(name: str, arguments: dict[str, str], fitted: bool = True) -> float | Literal["fit"]:
    """The degrees of freedom among a token's arguments.

    Raises:
        FormatError: missing, or no number above 2.
    """
    text = arguments.get("df")
    if text is None:
        raise FormatError(f"{name} needs its degrees of freedom", "write df=5" + (" or df=fit" if fitted else ""))
    if text == "fit" and fitted:
        return "fit"
    df = real_number(text, "df")
    if not df > 2:
        raise FormatError(f"df={text} has no RMS", "give df above 2, e.g. df=5")
    return df
