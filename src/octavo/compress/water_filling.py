"""One step for a whole model: the search for the water level that meets a budget of stored bits.

Every tensor lies on a grid whose steps follow its separable Fisher (octavo.formats.grid_codes), so a single number, the
common step, trades bits for loss everywhere at the same price. A sample of every tensor's rows shows how bits fall with
the step; one exact count of all tensors at the step found corrects what the sample missed. No rule is needed for how
many bits a tensor gets.

The alternative to be beaten is the uniform plan, the same rate for every tensor; it is read off the same curves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from numpy.typing import NDArray

from octavo.base.errors import BudgetError
from octavo.compress.allocation import closed_form_bits
from octavo.formats import grid_census, grid_codes
from octavo.formats.grid_codes import Steps
from octavo.formats.grid_stream import side_bits

T = TypeVar("T")

OCTAVES = np.arange(-3, 3.01, 0.5)
"""Where the sampled curves are taken, in octaves from the first guess."""

TOLERANCE = 0.004
"""Bits per weight that may be left over."""

PASSES = 6
"""Exact counts at most; two do for all but the tiniest models, whose bits jump with the step."""

SAMPLES = 1 << 22
"""Weights that the sample of a whole model has at most."""

NORMAL_ENTROPY = 2.0471
"""log2 √(2πe): bits of a normal variable on a grid with a step of one standard deviation."""


@dataclass(frozen=True, eq=False)
class Weighted:
    """A matrix and the unit steps that its importance asks for."""

    name: str
    values: NDArray[np.float32]
    unit: Steps


@dataclass(frozen=True, eq=False)
class Curve:
    """Bits and loss of one tensor against the octave of the common step."""

    name: str
    octaves: Float[ndarray, " points"]
    bits: Float[ndarray, " points"]
    loss: Float[ndarray, " points"]

    def bits_at(self, octave: float) -> float:
        return float(np.interp(octave, self.octaves, self.bits))

    def loss_at(self, octave: float) -> float:
        return float(np.exp2(np.interp(octave, self.octaves, np.log2(np.maximum(self.loss, 1e-300)))))


@dataclass(frozen=True)
class Level:
    """A water level and what it costs.

    Attributes:
        step: common step.
        costs: what each tensor costs, by name; losses in nats per token.
        uniform: predicted loss of each tensor if all had the same rate.
    """

    step: float
    costs: dict[str, Cost]
    uniform: dict[str, float]


class Cost(NamedTuple):
    """Exact bits in the file, and predicted loss."""

    bits: float
    loss: float


def cost(matrix: Weighted, step: float, states: int) -> Cost:
    """What a matrix costs at a common step and with a trellis of `states` states."""
    grid = grid_codes.scaled_grid(matrix.values, replace(matrix.unit, step=float(np.float32(step))), states)
    census = grid_census.take_census(matrix.values, grid)
    _, _, bits = census.best_tables()
    return Cost(bits + side_bits(grid), 0.5 * census.error * step**2)


def sampled(matrix: Weighted, weights: int) -> Weighted:
    """About `weights` weights in evenly spaced rows, at least 16 of them."""
    rows, columns = matrix.values.shape
    count = min(rows, max(16, weights // columns))
    picked = np.linspace(0, rows - 1, count).astype(np.int64)
    unit = Steps(1.0, matrix.unit.row[picked], matrix.unit.column)
    return Weighted(matrix.name, matrix.values[picked].copy(), unit)


class Each(Protocol):
    """Applies a function to every matrix of the model, and yields what it returns."""

    def __call__(self, work: Callable[[Weighted], T], description: str) -> Iterator[T]: ...


def find_level(each: Each, shapes: dict[str, tuple[int, ...]], budget: float, states: int = 1) -> Level:
    """The finest common step that keeps all tensors within a budget.

    Args:
        each: goes through the matrices; once for the sample, once or twice for the exact count.
        shapes: shape of each, by name.
        budget: bits that all codes may take.
        states: of the trellis.

    Raises:
        BudgetError: no step meets the budget.
    """
    mean = budget / sum(prod(shape) for shape in shapes.values())
    samples = list(each(lambda matrix: sampled(matrix, SAMPLES // len(shapes)), "sampling"))
    guess = _first_guess(samples, np.array([prod(shapes[s.name]) for s in samples], float), mean)
    curves = [_curve(sample, guess, prod(shapes[sample.name]) / sample.values.size, states) for sample in samples]
    del samples
    octave = _octave(curves, budget)
    best: tuple[float, dict[str, Cost]] | None = None
    for _ in range(PASSES):
        step = float(np.float32(guess * 2.0**octave))
        exact = dict(zip(shapes, each(partial(cost, step=step, states=states), "counting bits"), strict=True))
        total = sum(found.bits for found in exact.values())
        if total <= budget and (best is None or step < best[0]):
            best = step, exact
        if 0 <= budget - total <= TOLERANCE * budget / mean or (total <= budget and octave == OCTAVES[0]):
            break
        # The curves' slope says how far to go; aim a little low, since the budget is a hard bound.
        shift = total - sum(curve.bits_at(octave) for curve in curves)
        octave = _octave(curves, budget - 0.4 * TOLERANCE * budget / mean - shift)
    if best is None:
        raise BudgetError(f"no step meets a budget of {budget / 8e6:.2f} MB", "change the budget a little")
    step, exact = best
    return Level(
        step,
        exact,
        {curve.name: _uniform_loss(curve, mean * prod(shapes[curve.name])) for curve in curves},
    )


def _first_guess(samples: list[Weighted], numel: Float[ndarray, " tensors"], mean: float) -> float:
    """The step at which normal variables of the tensors' weighted scale would take `mean` bits."""
    scale = np.array(
        [
            float(np.sqrt(np.mean(np.square(s.values * s.unit.row_inverse[:, None] * s.unit.column_inverse[None, :]))))
            for s in samples
        ]
    )
    alive = scale > 0
    if not alive.any():
        return 1.0
    bits = closed_form_bits(scale[alive], np.ones(int(alive.sum())), numel[alive], max(mean, 0.1))
    first = int(np.argmax(bits))
    return float(scale[alive][first] * 2.0 ** (NORMAL_ENTROPY - bits[first]))


def _curve(sample: Weighted, guess: float, factor: float, states: int) -> Curve:
    points = [cost(sample, guess * 2.0**octave, states) for octave in OCTAVES]
    return Curve(
        sample.name,
        OCTAVES,
        np.array([point.bits * factor for point in points]),
        np.array([point.loss * factor for point in points]),
    )


def _octave(curves: list[Curve], budget: float) -> float:
    """Where the sum of the curves meets the budget."""
    bits = np.sum([curve.bits for curve in curves], axis=0)
    if bits[-1] > budget:
        raise BudgetError(
            f"a budget of {budget / 8e6:.2f} MB leaves nothing of this model",
            "raise the budget or exclude fewer tensors",
        )
    if bits[0] < budget:
        return float(OCTAVES[0])
    return float(np.interp(-budget, -bits, OCTAVES))


def _uniform_loss(curve: Curve, bits: float) -> float:
    """Predicted loss of a tensor that takes `bits` bits."""
    return curve.loss_at(float(np.interp(-bits, -curve.bits, curve.octaves)))
