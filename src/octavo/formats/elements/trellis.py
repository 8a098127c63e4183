"""Fixed-rate trellis codes: b bits a weight choose, together with those of the rows below, among thousands of values.

A code of fixed width that rounds weights one by one loses 0.25 bit for its cells being intervals, and up to 0.47 more
because it must spend values on what is rare (Panter and Dite). A path through a trellis (octavo.kernels.shift_trellis)
wins most of both back: many weights share their bits, so rare values may be expensive.

The values of all states lie on a curve over the normal law: the value of rank r of S is the curve at the normal
quantile z of (r + 1/2) / S. The curve is fitted to the tensor and stored as its values at `KNOTS`; between them it is
linear. A random code works best if its values have the density of an optimal reproduction, which at high rate is the
source's own (Cover and Thomas, Elements of Information Theory, chapter 10); a scalar quantizer wants the cube root of
it. A trellis of 2^L states lies between, near the power 1 - 2b/(3L). Some powers around it are tried on a sample, the
heavier the tails the lower is best, and then the curve is moved to where its weights are, as in a step of Lloyd's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from scipy import special
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.formats.elements.sorted_sample import SortedSample, subset
from octavo.formats.elements.tokens import element_token, refuse_unknown, whole_number
from octavo.kernels import shift_decode, shift_encode
from octavo.kernels.shift_trellis import check_trellis, curve_values, ranks
from octavo.measure.sources import Array

NAME = "trellis"
EXAMPLE = "trellis(states=4096)@3"
STATES = 4096
"""States where the token names none."""

KNOTS = 17
"""Knots of the curve, at the normal quantiles -4, -3.5, ... 4."""

REACH = 4.0

SHARES = (1 / 2, 2 / 3, 5 / 6, 1.0)
"""How far towards the cube root of the density (2/3 for a single state's worth of memory) curves start."""

SAMPLE = 1 << 20
"""Weights whose density a curve starts from, at most."""

STRETCHES = 1 << 16
"""Weights that are encoded to choose and to fit a curve, at most."""

HEIGHT = 1024
"""Rows of a column that they are taken from in one piece."""

RIDGE = 1e-3
"""Of the mean weight of a knot: how firmly a knot that no weight reaches stays where it is."""


@dataclass(frozen=True)
class Trellis:
    """A bit-shift trellis with values fitted to the tensor.

    Attributes:
        states: of the trellis.
        bits: of a code.
    """

    states: int
    bits: int

    def __post_init__(self) -> None:
        check_trellis(self.states, self.bits)

    @property
    def levels(self) -> int:
        """How many codes there are."""
        return 2**self.bits

    def table(self, curve: Float[Tensor, " knots"]) -> Float32[Tensor, " states"]:
        """The value of each state, from a curve's values at the knots."""
        return curve_values(curve, self.places.to(curve.device))

    @property
    def places(self) -> Float32[Tensor, " states"]:
        """Where on a curve the value of each state lies, in knots from the first."""
        quantiles = np.clip(_quantiles(self.states, self.bits), -REACH, REACH)
        return torch.from_numpy((quantiles + REACH) * ((KNOTS - 1) / (2 * REACH))).float()

    def fit(
        self, weights: Float32[Tensor, "rows columns"], mass: Float32[Tensor, "rows columns"]
    ) -> Float32[Tensor, " knots"]:
        """The curve for a matrix.

        Args:
            weights: in units of their scales.
            mass: what a squared error of each costs.
        """
        sample = SortedSample.of(*subset(weights.flatten(), mass.flatten(), SAMPLE))
        weights, mass = _stretches(weights, mass)
        least, best = math.inf, torch.zeros(KNOTS)
        for share in SHARES:
            curve = self._start(sample, share).to(weights.device)
            places = self._places(curve, weights).flatten()
            loss, moved = _moved(curve, places, weights.flatten(), mass.flatten())
            if loss < least:
                least, best = loss, moved.float()
        return best

    def _start(self, sample: SortedSample, share: float) -> Float64[Tensor, " knots"]:
        """The quantiles of the sample's density to the power 1 - share · b/L."""
        shares = torch.special.ndtr(torch.from_numpy(_knots())).numpy()
        curve = torch.from_numpy(sample.powered_quantiles(shares, 1 - share * self.bits / math.log2(self.states)))
        # An optimal reproduction has the variance of the source less that of its error.
        return curve * math.sqrt(1 - 0.25**self.bits)

    def _places(
        self, curve: Float64[Tensor, " knots"], weights: Float32[Tensor, "rows columns"]
    ) -> Float32[Tensor, "rows columns"]:
        """Where on the curve each weight's value lies."""
        codes = shift_encode(weights, self.table(curve), self.bits)
        rows, columns = weights.shape
        unit = torch.ones(1, 1, device=weights.device), columns, torch.ones(columns, device=weights.device)
        places = torch.from_numpy(_quantiles(self.states, self.bits)).float().to(weights.device)
        return shift_decode(codes, places, self.bits, rows, *unit)

    def __str__(self) -> str:
        return element_token(NAME, {"states": str(self.states)}, self.levels)


@cache
def _quantiles(states: int, bits: int) -> Array:
    """Where on the curve each state lies."""
    return special.ndtri((ranks(states, bits).numpy() + 0.5) / states)


def _knots() -> Array:
    return np.linspace(-REACH, REACH, KNOTS)


def _moved(
    curve: Float64[Tensor, " knots"],
    places: Float32[Tensor, " n"],
    weights: Float32[Tensor, " n"],
    mass: Float32[Tensor, " n"],
) -> tuple[float, Float64[Tensor, " knots"]]:
    """The weighted squared error of weights that lie at given places of a curve, and the curve that has the least."""
    place = (places.double().clamp(-REACH, REACH) + REACH) * ((KNOTS - 1) / (2 * REACH))
    left = place.floor().clamp(max=KNOTS - 2)
    share, left = place - left, left.long()
    error = weights - torch.lerp(curve[left], curve[left + 1], share)
    ends = ((left, 1 - share), (left + 1, share))
    gram = torch.zeros(KNOTS, KNOTS, dtype=torch.float64, device=curve.device)
    pull = torch.zeros_like(curve)
    for one, own in ends:
        pull.index_add_(0, one, own * mass * error)
        for other, share_of_other in ends:
            gram.index_put_((one, other), own * share_of_other * mass, accumulate=True)
    heaviest = gram.diagonal().mean()
    gram.diagonal().add_(torch.where(heaviest > 0, RIDGE * heaviest, 1.0))
    return float(mass.double() @ error.square()), curve + torch.linalg.solve(gram, pull)


def _stretches(
    weights: Float32[Tensor, "rows columns"], mass: Float32[Tensor, "rows columns"]
) -> tuple[Float32[Tensor, "stretch pieces"], Float32[Tensor, "stretch pieces"]]:
    """Stretches of columns, and what a squared error of each weight in them costs; the whole matrix if it is small."""
    rows, columns = weights.shape
    if rows * columns <= STRETCHES:
        return weights, mass
    height = min(rows, HEIGHT)
    pieces = STRETCHES // height
    draws = torch.Generator().manual_seed(STRETCHES)
    column = torch.randint(columns, (pieces,), generator=draws).to(weights.device)
    first = torch.randint(rows - height + 1, (pieces,), generator=draws).to(weights.device)
    row = first + torch.arange(height, device=weights.device)[:, None]
    return weights[row, column], mass[row, column]


def parse_trellis(arguments: dict[str, str], levels: int | None) -> Trellis:
    """`trellis(states=4096)@3`, or `trellis@3` for so many states.

    Raises:
        FormatError: no whole number of bits, or a number of states that there is no trellis of.
    """
    refuse_unknown(NAME, arguments, {"states": None})
    if levels is None or levels & (levels - 1):
        raise FormatError(f"{NAME} needs a whole number of bits", f"write {EXAMPLE}")
    return Trellis(whole_number(arguments.get("states", str(STATES)), "states"), levels.bit_length() - 1)
