"""Scalar quantization of an analytic law: exact cell masses, cell means and squared error, without samples."""

from __future__ import annotations

import functools

import numpy as np

from octavo.measure.sources import AbsmaxScaled, Array, Law, Source


def midpoints(codebook: Array) -> Array:
    """Cell boundaries of a sorted codebook: a value goes to the nearest centroid, ties to the lower one."""
    return (codebook[1:] + codebook[:-1]) / 2


def cells(codebook: Array, law: Law) -> tuple[Array, Array]:
    """Probability and partial mean (the integral of x·p) of each centroid's cell."""
    edges = np.concatenate([[-np.inf], midpoints(codebook), [np.inf]])
    return np.diff(law.cdf(edges)), np.diff(law.partial_mean(edges))


def squared_error(codebook: Array, law: Law, second_moment: float = 1.0) -> float:
    """Mean squared error of nearest-centroid rounding of a law whose mean square is `second_moment`."""
    mass, mean = cells(codebook, law)
    return second_moment + float(codebook @ (mass * codebook - 2 * mean))


def block_error(codebook: Array, source: Source, block: int, span: float = 1.0, signed: bool = False) -> float:
    """Mean squared error, relative to the mean square, of blocks scaled by their largest magnitude.

    The mean runs over the law of the block maximum; rounding of the scale itself is not counted.

    Args:
        codebook: sorted centroids in units of the scale.
        source: what the weights follow.
        block: weights that share a scale.
        span: codebook value onto which the largest weight falls (negative where it falls on the lower end).
        signed: the scale carries the largest weight's sign, so that it always falls on `span`.
    """
    law = AbsmaxScaled.of(source, block)
    top = law.maxima[:, None]
    unit = np.sort(codebook / span)
    ends = np.array([1.0]) if signed else np.array([-1.0, 1.0])
    at_end = float(np.mean((unit[np.searchsorted(midpoints(unit), ends)] - ends) ** 2))
    edges = top * np.concatenate([[-1.0], np.clip(midpoints(unit), -1, 1), [1.0]])
    inside = 1 - 2 * source.cdf(-top)
    mass = np.diff(source.cdf(edges)) / inside
    mean = np.diff(source.partial_mean(edges)) / inside
    nodes, weights = _gauss_legendre()
    reach = (nodes + 1) / 2 * top
    square = (reach**2 * source.pdf(reach)) @ weights * law.maxima / inside[:, 0]
    other = square + np.sum(top**2 * mass * unit**2 - 2 * top * mean * unit, axis=1)
    total = law.shares @ ((block - 1) * other + law.maxima**2 * at_end)
    return float(total) / block / source.rms**2


@functools.lru_cache(maxsize=1)
def _gauss_legendre() -> tuple[Array, Array]:
    return np.polynomial.legendre.leggauss(96)


def best_multiplier(codebook: Array, source: Source) -> float:
    """The factor on a codebook that gives least squared error on a source: coarse grid, then golden section."""
    unit = codebook / np.abs(codebook).max()

    def error(exponent: float) -> float:
        return squared_error(unit * 2**exponent, source, source.rms**2)

    grid = np.arange(-4, 24, 0.125)
    start = grid[int(np.argmin([error(exponent) for exponent in grid]))]
    low, high = start - 0.125, start + 0.125
    golden = (5**0.5 - 1) / 2
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if error(left) <= error(right) else (left, high)
    return float(2 ** ((low + high) / 2) / np.abs(codebook).max())
