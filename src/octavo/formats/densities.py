"""The law that centroids should follow: a power of the data's density.

Panter and Dite (1951): the fixed-length scalar quantizer of least squared error places its centroids with density
p^(1/3). Raised to a power alpha, the normal, Laplace and Student-t densities stay in their families, so the centroids
are quantiles in closed form. alpha = 1 gives every centroid the same number of weights, alpha = 0 a uniform grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from octavo.base.errors import FormatError
from octavo.measure.sources import Array, Laplace, Normal, Source, StudentT

EULER = 0.5772156649015329

SMALL_BLOCK = 16
"""Below this block size the asymptotic formulas of the expected maximum fail, and it is integrated numerically."""


@dataclass(frozen=True)
class Uniform:
    """The flat law on [-1, 1]: alpha = 0."""

    def cdf(self, x: Array) -> Array:
        return (np.clip(x, -1, 1) + 1) / 2

    def ppf(self, p: Array) -> Array:
        return 2 * p - 1


def powered(source: Source, alpha: float) -> Source:
    """The law proportional to the source's density to the power alpha > 0.

    Raises:
        FormatError: alpha is not positive, or too small for the tails of a Student-t (alpha·(df+1) must exceed 1).
    """
    if not alpha > 0:
        raise FormatError(f"alpha={alpha:g} gives no density on the whole line", "give alpha above 0")
    if isinstance(source, Normal):
        return Normal(source.scale / math.sqrt(alpha))
    if isinstance(source, Laplace):
        return Laplace(source.scale / alpha)
    df = alpha * (source.df + 1) - 1
    if df <= 0:
        least = 1 / (source.df + 1)
        raise FormatError(
            f"alpha={alpha:g} is too small for a Student-t with df={source.df:g}", f"give alpha above {least:.3g}"
        )
    return StudentT(df, source.scale * math.sqrt(source.df / df))


def expected_absmax(source: Source, block: int) -> float:
    """Expected largest magnitude of `block` samples of a source, in the source's units.

    The asymptotic formulas of "Optimal Formats for Weight Quantisation" (arXiv 2505.12988), good to 10 % from blocks of
    16 up; for smaller blocks the exact integral of 1 - P(|x| < t)^block.
    """
    if block < SMALL_BLOCK:
        return exact_absmax(source, block)
    if isinstance(source, Laplace):
        return source.scale * (EULER + math.log(block))
    normal = math.sqrt(2 * math.log(block / math.pi))
    if isinstance(source, Normal):
        return source.scale * normal
    df = source.df
    return source.rms * normal ** ((df - 3) / df) * block ** (1 / df)


def exact_absmax(source: Source, block: int) -> float:
    """The same by quadrature over the maximum's quantiles."""
    nodes, weights = np.polynomial.legendre.leggauss(256)
    likely = (nodes + 1) / 2
    maxima = -source.ppf(-np.expm1(np.log(likely) / block) / 2)
    return float(weights @ maxima) / 2
