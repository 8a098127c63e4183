"""Lloyd-Max codebooks from a density: the exact least-squares centroids of a normal, Laplace or Student-t source.

The squared error of a codebook on these laws is a closed form, and so are its gradient and Hessian (tridiagonal), so
Newton's method from the cube-root codebook converges in a few steps where Lloyd's own iteration needs thousands. Scaled
by the block maximum, the law is that of the other weights in the block, each block counted by its squared maximum, and
the ends stay at ±1 (signmax: +1), so that the largest weight is exact.

Source: Lloyd (1957/1982) and Max (1960), IEEE Trans. Information Theory.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.formats.elements.cube_root import CubeRoot, parse_df
from octavo.formats.elements.element import TENSOR_BLOCK, base_statistic
from octavo.formats.elements.tokens import element_token, number_text, refuse_unknown
from octavo.measure.scalar import cells, midpoints, squared_error
from octavo.measure.sources import AbsmaxScaled, Array, Law, source


@dataclass(frozen=True)
class LloydDensity:
    """The least-squares codebook of a unit-RMS source.

    Attributes:
        family: `normal`, `laplace` or `t`.
        levels: number of centroids.
        df: degrees of freedom of `t`; None for the others.
    """

    family: str
    levels: int
    df: float | None = None

    @property
    def stored(self) -> bool:
        return True

    @property
    def data_driven(self) -> bool:
        return False

    def span(self, statistic: str, block: int | None) -> float:
        if base_statistic(statistic, block) == "absmean":
            return source(self.family, self.df).mean_absolute
        return 1.0

    def codebook(self, statistic: str, block: int | None) -> Float[Tensor, " levels"]:
        return torch.from_numpy(_solve(self, base_statistic(statistic, block), block)).float()

    def fit(
        self, values: Float[Tensor, " n"], weights: Float[Tensor, " n"] | None, statistic: str, block: int | None
    ) -> Float[Tensor, " levels"]:
        return self.codebook(statistic, block)

    def __str__(self) -> str:
        arguments = {} if self.df is None else {"df": number_text(self.df)}
        return element_token(f"lloyd-{self.family}", arguments, self.levels)


@functools.lru_cache(maxsize=256)
def _solve(element: LloydDensity, base: str, block: int | None) -> Array:
    start = CubeRoot(element.family, element.levels, element.df)
    centroids = start.codebook(base, block).double().numpy()
    law = source(element.family, element.df)
    if base in ("rms", "absmean"):
        return least_squares(law, centroids)
    scaled = AbsmaxScaled.of(law, TENSOR_BLOCK if block is None else block, nodes=32).weighted_by_square()
    return least_squares(scaled, centroids, fixed=(1.0,) if base == "signmax" else (-1.0, 1.0))


def least_squares(law: Law, centroids: Array, fixed: tuple[float, ...] = ()) -> Array:
    """The codebook of least squared error near `centroids`; those whose value is in `fixed` stay.

    Newton's method, falling back to a Lloyd step wherever Newton's does not lower the error.
    """
    free = ~np.isin(centroids, np.array(fixed))
    for _ in range(200):
        mass, mean = cells(centroids, law)
        gradient = np.where(free, centroids * mass - mean, 0.0)
        if np.abs(gradient).max() < 1e-15:
            break
        proposal = centroids - _newton_step(law, centroids, mass, gradient, free)
        error = squared_error(centroids, law)
        if not (np.all(np.diff(proposal) > 0) and squared_error(proposal, law) <= error):
            proposal = np.where(free & (mass > 0), mean / np.where(mass > 0, mass, 1), centroids)
            if squared_error(proposal, law) > error:
                break
        moved = np.abs(proposal - centroids).max()
        centroids = proposal
        if moved < 1e-13:
            break
    return centroids


def _newton_step(law: Law, centroids: Array, mass: Array, gradient: Array, free: NDArray[np.bool_]) -> Array:
    edges = midpoints(centroids)
    coupling = law.pdf(edges) * np.diff(centroids) / 4
    hessian = np.diag(mass - np.append(coupling, 0) - np.insert(coupling, 0, 0))
    hessian -= np.diag(coupling, 1) + np.diag(coupling, -1)
    step = np.zeros_like(gradient)
    try:
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
    except np.linalg.LinAlgError:
        step[free] = np.inf  # not a descent: the caller takes a Lloyd step
    return step


def parse_lloyd_density(family: str, arguments: dict[str, str], levels: int | None) -> LloydDensity:
    """`lloyd-normal@4`, `lloyd-laplace@3`, `lloyd-t(df=5)@4`.

    Raises:
        FormatError: no size, or no df for t.
    """
    name = f"lloyd-{family}"
    refuse_unknown(name, arguments, {"df": None} if family == "t" else {})
    if levels is None:
        raise FormatError(f"{name} needs a size", f"write {name}@4 or {name}(levels=11)")
    df = parse_df(name, arguments, fitted=False) if family == "t" else None
    assert df != "fit"
    return LloydDensity(family, levels, df)
