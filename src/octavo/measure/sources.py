"""Sources: the densities that weights are compared with, as analytic laws and as streams of samples.

A law is a symmetric location-scale family with its exact pdf, cdf, quantiles and partial means, so that the error of a
scalar quantizer on it is a finite sum and no numerical integral. `unit_rms` makes the member with root mean square 1,
the convention of every codebook and every figure here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from octavo.base.errors import FormatError

Array = NDArray[np.float64]


class Law(Protocol):
    """What a quantizer needs to know of a density; all methods work elementwise on float64 arrays."""

    def pdf(self, x: Array) -> Array: ...

    def cdf(self, x: Array) -> Array: ...

    def partial_mean(self, x: Array) -> Array:
        """The integral of t·p(t) up to x."""
        ...


@dataclass(frozen=True)
class Normal:
    """The normal law; its root mean square is `scale`."""

    scale: float = 1.0

    @classmethod
    def unit_rms(cls) -> Normal:
        return cls()

    @property
    def rms(self) -> float:
        return self.scale

    @property
    def mean_absolute(self) -> float:
        return self.scale * math.sqrt(2 / math.pi)

    @property
    def entropy_bits(self) -> float:
        """Differential entropy."""
        return 0.5 * math.log2(2 * math.pi * math.e) + math.log2(self.scale)

    def pdf(self, x: Array) -> Array:
        return np.exp(-0.5 * (x / self.scale) ** 2) / (self.scale * math.sqrt(2 * math.pi))

    def cdf(self, x: Array) -> Array:
        return special.ndtr(x / self.scale)

    def ppf(self, p: Array) -> Array:
        return self.scale * special.ndtri(p)

    def partial_mean(self, x: Array) -> Array:
        return -(self.scale**2) * self.pdf(x)

    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
        return self.scale * torch.randn(count, generator=generator)


@dataclass(frozen=True)
class Laplace:
    """The double exponential law; its root mean square is √2·`scale`."""

    scale: float = 1.0

    @classmethod
    def unit_rms(cls) -> Laplace:
        return cls(1 / math.sqrt(2))

    @property
    def rms(self) -> float:
        return self.scale * math.sqrt(2)

    @property
    def mean_absolute(self) -> float:
        return self.scale

    @property
    def entropy_bits(self) -> float:
        """Differential entropy."""
        return math.log2(2 * math.e * self.scale)

    def pdf(self, x: Array) -> Array:
        return np.exp(-np.abs(x) / self.scale) / (2 * self.scale)

    def cdf(self, x: Array) -> Array:
        tail = 0.5 * np.exp(-np.abs(x) / self.scale)
        return np.where(x < 0, tail, 1 - tail)

    def ppf(self, p: Array) -> Array:
        return self.scale * np.where(p < 0.5, np.log(2 * np.minimum(p, 0.5)), -np.log(2 * np.minimum(1 - p, 0.5)))

    def partial_mean(self, x: Array) -> Array:
        reach = np.where(np.isinf(x), 0.0, np.abs(x))
        return -self.scale * (self.scale + reach) * self.pdf(x)

    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
        magnitude = torch.empty(count).exponential_(generator=generator)
        sign = 2.0 * torch.randint(0, 2, (count,), generator=generator) - 1
        return self.scale * sign * magnitude


@dataclass(frozen=True)
class StudentT:
    """Student's t with any positive degrees of freedom; it has a root mean square above 2 degrees."""

    df: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.df < math.inf):
            raise FormatError(f"Student's t has no df={self.df}", "give a positive df, e.g. df=5")

    @classmethod
    def unit_rms(cls, df: float) -> StudentT:
        """The member of RMS 1.

        Raises:
            FormatError: df is 2 or less, where no RMS exists.
        """
        if not df > 2:
            raise FormatError(f"Student's t with df={df:g} has no RMS", "give df above 2, e.g. df=5")
        return cls(df, math.sqrt((df - 2) / df))

    @property
    def rms(self) -> float:
        return self.scale * math.sqrt(self.df / (self.df - 2)) if self.df > 2 else math.inf

    @property
    def mean_absolute(self) -> float:
        if self.df <= 1:
            return math.inf
        return 2 * self.scale * math.sqrt(self.df) * math.exp(-self._log_beta) / (self.df - 1)

    @property
    def entropy_bits(self) -> float:
        """Differential entropy."""
        half = (self.df + 1) / 2
        spread = half * (special.digamma(half) - special.digamma(self.df / 2))
        return float(spread + 0.5 * math.log(self.df) + self._log_beta + math.log(self.scale)) / math.log(2)

    @property
    def _log_beta(self) -> float:
        return float(special.betaln(self.df / 2, 0.5))

    def pdf(self, x: Array) -> Array:
        log_tail = np.log1p((x / self.scale) ** 2 / self.df)
        return np.exp(-(self.df + 1) / 2 * log_tail - self._log_beta) / (self.scale * math.sqrt(self.df))

    def cdf(self, x: Array) -> Array:
        return special.stdtr(self.df, x / self.scale)

    def ppf(self, p: Array) -> Array:
        return self.scale * special.stdtrit(self.df, p)

    def partial_mean(self, x: Array) -> Array:
        if self.df <= 1:
            raise FormatError(f"Student's t with df={self.df:g} has no mean", "give df above 1")
        spread = self.scale * self.df / (self.df - 1)
        log_tail = np.log1p((x / self.scale) ** 2 / self.df)
        return -spread * np.exp((1 - self.df) / 2 * log_tail - self._log_beta) / math.sqrt(self.df)

    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
        """Bailey's polar method (Math. Comp. 62, 1994), exact for every df."""
        radius = 1 - torch.rand(count, generator=generator, dtype=torch.float64)
        angle = torch.rand(count, generator=generator, dtype=torch.float64)
        t = (self.df * torch.expm1(-2 / self.df * radius.log())).sqrt() * torch.cos(2 * math.pi * angle)
        return (self.scale * t).float()


Source = Normal | Laplace | StudentT


def source(name: str, df: float | None = None) -> Source:
    """The unit-RMS source of a name: `normal`, `laplace`, or `t` with its degrees of freedom.

    Raises:
        FormatError: unknown name, or df missing, misplaced or at most 2.
    """
    if (df is None) == (name == "t"):
        raise FormatError(f"source {name!r} with df={df}", "give df to t, and only to t")
    match name:
        case "normal":
            return Normal.unit_rms()
        case "laplace":
            return Laplace.unit_rms()
        case "t":
            assert df is not None
            return StudentT.unit_rms(df)
    raise FormatError(f"unknown source {name!r}", "choose normal, laplace or t")


@dataclass(frozen=True, eq=False)
class AbsmaxScaled:
    """The law of a weight divided by the largest magnitude in its block, itself not being that largest weight.

    Given the block maximum the others follow the source truncated there, so the law is a mixture of truncations; the
    mixture runs over `nodes` equally likely values of the maximum.

    Attributes:
        maxima: the block maxima of the mixture's parts.
        shares: weight of each part; they sum to 1.
    """

    source: Source
    maxima: Array
    shares: Array

    @classmethod
    def of(cls, source: Source, block: int, nodes: int = 128) -> AbsmaxScaled:
        """The law for blocks of `block` weights."""
        likely = ((np.arange(nodes) + 0.5) / nodes) ** (1 / block)
        return cls(source, -source.ppf((1 - likely) / 2), np.full(nodes, 1 / nodes))

    def weighted_by_square(self) -> AbsmaxScaled:
        """The same with each block counted by its squared maximum: what squared error in the weights' units sees."""
        square = self.shares * self.maxima**2
        return AbsmaxScaled(self.source, self.maxima, square / square.sum())

    def _components(self, x: Array) -> tuple[Array, Array, Array]:
        """Truncation points (parts first, then x's shape), their masses, and x in units of the source."""
        top = self.maxima.reshape(-1, *([1] * np.ndim(x)))
        return top, 1 - 2 * self.source.cdf(-top), np.clip(x, -1, 1) * top

    def _mix(self, parts: Array) -> Array:
        return np.tensordot(self.shares, parts, axes=1)

    def pdf(self, x: Array) -> Array:
        top, mass, reach = self._components(x)
        return np.where(np.abs(x) <= 1, self._mix(top * self.source.pdf(reach) / mass), 0.0)

    def cdf(self, x: Array) -> Array:
        top, mass, reach = self._components(x)
        return self._mix((self.source.cdf(reach) - self.source.cdf(-top)) / mass)

    def partial_mean(self, x: Array) -> Array:
        top, mass, reach = self._components(x)
        low = self.source.partial_mean(-top)
        return self._mix((self.source.partial_mean(reach) - low) / (top * mass))
