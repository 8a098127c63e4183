"""Fitting the precision law to runs: Huber loss on log L, many starts, bootstrap intervals.

The six unknowns are log A, log B, log E, α, β and log γ. Thousands of starts are judged at once, the best of them are
carried down by L-BFGS with the exact gradient, and the winner is polished by Gauss-Newton steps on the same Huber loss,
which a curved valley like this one needs to come to rest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import least_squares, minimize
from scipy.special import logsumexp

from octavo.base.errors import LawError
from octavo.base.progress import SILENT, Progress
from octavo.laws.precision import PrecisionLaw
from octavo.laws.runs import Run

NAMES = ("a", "b", "e", "alpha", "beta", "gamma")
LOGARITHMIC = ("a", "b", "e", "gamma")
BOUNDS = ((-20.0, 30.0), (-20.0, 30.0), (-20.0, 5.0), (0.01, 3.0), (0.01, 3.0), (math.log(0.05), math.log(50.0)))
STARTS: dict[str, tuple[float, ...]] = {
    "a": (-1.0, 2.0, 5.0, 8.0, 12.0),
    "b": (-1.0, 2.0, 5.0, 8.0, 12.0),
    "e": (-2.0, -0.5, 0.5),
    "alpha": (0.2, 0.4, 0.6, 1.0),
    "beta": (0.2, 0.4, 0.6, 1.0),
    "gamma": (math.log(1.0), math.log(3.0), math.log(6.0)),
}
CARRIED = 8
"""Starts that L-BFGS carries down, the best of all."""
POLISHED = 4
"""Ends of L-BFGS that are polished."""
REDRAWS = 50
"""Resamples drawn for one that determines the law, at most."""


@dataclass(frozen=True)
class PrecisionFit:
    """A fitted law.

    Attributes:
        law: the constants.
        intervals: central intervals of the bootstrap, by name of the constant; empty without resamples.
        level: the probability that they hold.
        error: root mean square of the residuals of log L.
        runs: how many runs were fitted.
        flags: what to doubt, for instance a constant at the edge of what was searched.
        draws: the law of each resample. Tables of as many runs, fitted with the same seed, are resampled alike.
    """

    law: PrecisionLaw
    intervals: dict[str, tuple[float, float]]
    level: float
    error: float
    runs: int
    flags: tuple[str, ...]
    draws: tuple[PrecisionLaw, ...] = ()


def fit(
    runs: Sequence[Run],
    *,
    hold: Mapping[str, float] | None = None,
    delta: float = 1e-3,
    resamples: int = 200,
    level: float = 0.9,
    seed: int = 0,
    progress: Progress = SILENT,
) -> PrecisionFit:
    """Fit the law to runs.

    Args:
        runs: at least one more than there are unknowns.
        hold: constants that are known, by name (a, b, e, alpha, beta, gamma), and are not fitted; b = 0 leaves the
            data term out, for runs that all saw the same tokens.
        delta: where the Huber loss turns from squares to lines, in log L.
        resamples: of the bootstrap over runs; none for no intervals.
        level: of the intervals.
        seed: of the resampling.
        progress: told of the resamples.

    Raises:
        LawError: the runs do not determine what is asked.
    """
    held = {}
    for name, value in (hold or {}).items():
        held[name] = value if name not in LOGARITHMIC else math.log(value) if value else -math.inf
    unknown = sorted(set(held) - set(NAMES))
    if unknown:
        raise LawError(f"the law has no constant {', '.join(unknown)}", f"it has {', '.join(NAMES)}")
    table = np.array([(run.parameters, run.tokens, run.bits, run.loss) for run in runs], float).reshape(-1, 4)
    problem = _Problem(table, held, delta)
    missing = problem.missing()
    if missing:
        raise LawError(*missing)
    best = min(map(problem.polish, problem.descend()), key=lambda point: float(problem.objective(point)))
    draws = []
    random = np.random.default_rng(seed)
    for _ in progress.track(range(resamples), "bootstrap"):
        drawn = _resample(problem, random)
        if drawn is not None:
            draws.append(drawn.polish(best))
    flags = problem.doubts(best)
    if len(draws) < resamples:
        flags = (*flags, f"only {len(draws)} of {resamples} resamples determine the law: there are few runs")
    tails = [(1 - level) / 2, (1 + level) / 2]
    intervals = {}
    if draws:
        ends = np.quantile(np.array(draws), tails, axis=0)
        for index, name in enumerate(problem.free):
            low, high = (float(np.exp(end)) if name in LOGARITHMIC else float(end) for end in ends[:, index])
            intervals[name] = (low, high)
    error = float(np.sqrt(np.mean(problem.residuals(best) ** 2)))
    laws = tuple(map(problem.law, draws))
    return PrecisionFit(problem.law(best), intervals, level, error, len(runs), flags, laws)


def _resample(problem: _Problem, random: np.random.Generator) -> _Problem | None:
    """As many runs, drawn with replacement, that still determine the law."""
    for _ in range(REDRAWS):
        rows = random.integers(0, len(problem.table), len(problem.table))
        drawn = _Problem(problem.table[rows], problem.held, problem.delta)
        if not drawn.missing(bootstrap=True):
            return drawn
    return None


class _Problem:
    """The fit as functions of the constants that are not held."""

    def __init__(self, table: Float[ndarray, "runs four"], held: dict[str, float], delta: float) -> None:
        self.table, self.held, self.delta = table, held, delta
        self.free = [name for name in NAMES if name not in held]
        self.bounds = [BOUNDS[NAMES.index(name)] for name in self.free]

    def missing(self, bootstrap: bool = False) -> tuple[str, str] | None:
        """Why the runs do not determine the law, and what would help; None if they may."""
        distinct = {tuple(row[:3]) for row in self.table.tolist()}
        if not bootstrap and len(self.table) <= len(self.free):
            needs = f"give at least {len(self.free) + 1} runs, or hold some constants"
            return f"{len(self.table)} runs do not determine {len(self.free)} constants", needs
        if len(distinct) < len(self.free):
            return f"only {len(distinct)} runs differ in size, tokens or bits", "vary them, or hold some constants"
        if "gamma" in self.free and len(set(self.table[:, 2].tolist())) < 2:
            needs = "add runs at other bits, or hold gamma"
            return "all runs have the same bits, and γ cannot be told from A", needs
        of_data = [name for name in ("b", "beta", "e") if name in self.free]
        tokens = len(set(self.table[:, 1].tolist()))
        if tokens < len(of_data):
            needs = f"add runs at {len(of_data) - tokens} more, or hold some (b = 0 leaves the data term out)"
            return f"{tokens} different numbers of tokens do not determine {', '.join(of_data)}", needs
        return None

    def full(self, points: Float[ndarray, "*batch free"]) -> Float[ndarray, "*batch six"]:
        """All six unknowns, the held ones filled in."""
        whole = np.empty((*points.shape[:-1], len(NAMES)))
        for index, name in enumerate(NAMES):
            whole[..., index] = self.held[name] if name in self.held else points[..., self.free.index(name)]
        return whole

    def terms(self, points: Float[ndarray, "*batch free"]) -> Float[ndarray, "*batch runs three"]:
        """Logarithms of the law's three terms."""
        a, b, e, alpha, beta, gamma = np.moveaxis(self.full(points)[..., None, :], -1, 0)
        size, tokens, bits, _ = self.table.T
        effective = np.log(size) + np.log(-np.expm1(-bits / np.exp(gamma)))
        return np.stack(np.broadcast_arrays(a - alpha * effective, b - beta * np.log(tokens), e), -1)

    def residuals(self, points: Float[ndarray, "*batch free"]) -> Float[ndarray, "*batch runs"]:
        """Predicted less measured log L."""
        return logsumexp(self.terms(points), axis=-1) - np.log(self.table[:, 3])

    def objective(self, points: Float[ndarray, "*batch free"]) -> Float[ndarray, "*batch"]:
        """Huber loss, in units of δ²."""
        over = np.abs(self.residuals(points)) / self.delta
        return np.asarray(np.where(over <= 1, 0.5 * over**2, over - 0.5).sum(-1))

    def jacobian(self, point: Float[ndarray, " free"]) -> Float[ndarray, "runs free"]:
        """Derivatives of the residuals."""
        terms = self.terms(point)
        share = np.exp(terms - logsumexp(terms, axis=-1, keepdims=True))
        size, tokens, bits, _ = self.table.T
        gamma = np.exp(self.full(point)[5])
        capacity = -np.expm1(-bits / gamma)
        alpha = self.full(point)[3]
        columns = {
            "a": share[:, 0],
            "b": share[:, 1],
            "e": share[:, 2],
            "alpha": -share[:, 0] * np.log(size * capacity),
            "beta": -share[:, 1] * np.log(tokens),
            "gamma": share[:, 0] * alpha * (bits / gamma) * np.exp(-bits / gamma) / capacity,
        }
        return np.stack([columns[name] for name in self.free], -1)

    def gradient(self, point: Float[ndarray, " free"]) -> Float[ndarray, " free"]:
        """Of the objective."""
        return np.clip(self.residuals(point) / self.delta, -1, 1) @ self.jacobian(point) / self.delta

    def descend(self) -> list[ndarray]:
        """The best points that L-BFGS reaches from the best of all starts."""
        starts = np.array(list(itertools.product(*(STARTS[name] for name in self.free))))
        order = np.argsort(self.objective(starts), kind="stable")[:CARRIED]
        options = {"maxiter": 60, "ftol": 1e-9}
        ends = [
            minimize(self.objective, start, jac=self.gradient, method="L-BFGS-B", bounds=self.bounds, options=options)
            for start in starts[order]
        ]
        return [end.x for end in sorted(ends, key=lambda end: end.fun)[:POLISHED]]

    def polish(self, point: Float[ndarray, " free"]) -> Float[ndarray, " free"]:
        """The minimum next to `point`."""
        low, high = np.array(self.bounds).T
        inside = np.clip(point, low + 1e-9, high - 1e-9)
        jacobian: Any = lambda at: self.jacobian(at) / self.delta  # noqa: E731
        found = least_squares(
            lambda at: self.residuals(at) / self.delta,
            inside,
            jac=jacobian,
            bounds=(low, high),
            loss="huber",
            x_scale="jac",
            xtol=1e-12,
            ftol=1e-12,
            gtol=1e-12,
            max_nfev=300,
        )
        return found.x if found.cost <= self.objective(point) else point

    def law(self, point: Float[ndarray, " free"]) -> PrecisionLaw:
        values = dict(zip(NAMES, self.full(point).tolist(), strict=True))
        values |= {name: math.exp(values[name]) for name in LOGARITHMIC}
        return PrecisionLaw(**values)

    def doubts(self, point: Float[ndarray, " free"]) -> tuple[str, ...]:
        """What to doubt about a fit: constants at the edge, and directions that the runs say nothing about."""
        flags = [
            f"{name} ended at the edge of what was searched"
            for name, value, (low, high) in zip(self.free, point, self.bounds, strict=True)
            if value - low < 1e-3 or high - value < 1e-3
        ]
        spread = np.linalg.svd(self.jacobian(point), compute_uv=False)
        if spread[-1] < 1e-6 * spread[0]:
            flags.append("the runs hardly tell some constants from each other")
        return tuple(flags)
