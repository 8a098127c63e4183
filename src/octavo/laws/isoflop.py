"""The size of model that is best at a budget of compute, from runs at that budget: IsoFLOP minima, skill by skill.

At each budget the loss is a parabola in the logarithm of the size (arXiv 2203.15556, approach 2), whose lowest point is
the compute-optimal size. Measured on knowledge it lies higher, on reasoning lower than on all text (arXiv 2503.10061).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from octavo.base.errors import LawError

FEWEST = 4
"""Runs that a parabola and a residual need."""
ENOUGH = 5
"""Runs below which a fit is flagged."""

OUTSIDE = "the lowest point lies outside the sizes that were run"
CURVED_DOWN = "the parabola opens downwards"
FEW = f"fewer than {ENOUGH} runs"
UNSTABLE = "more than a tenth of the resamples have no lowest point"


@dataclass(frozen=True)
class IsoflopFit:
    """A parabola through runs at one budget.

    Attributes:
        ln_size: logarithm of the best size; nan where it is not to be trusted (see flags).
        loss: there.
        curvature: half the second derivative of the loss by ln size.
        interval: of ln_size, by resampling residuals.
        noise: standard deviation of the residuals.
        flags: what is wrong with it; empty if nothing is.
    """

    ln_size: float
    loss: float
    curvature: float
    interval: tuple[float, float]
    noise: float
    flags: tuple[str, ...]


@dataclass(frozen=True)
class PowerLaw:
    """ln size = kappa · ln budget + intercept.

    Attributes:
        covariance: of (kappa, intercept); nan with two budgets only, where nothing is left over to judge by.
    """

    kappa: float
    intercept: float
    covariance: Float[ndarray, "2 2"]


@dataclass(frozen=True)
class SkillRun:
    """A trained model: its budget in FLOPs, its parameters, and its loss on each data set, in nats."""

    budget: float
    parameters: float
    losses: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class SkillResidual:
    """How far a skill's best size lies from that of the reference at one budget.

    Attributes:
        budget: in FLOPs.
        skill: its name.
        ln_size: logarithm of the skill's best size.
        residual: ln_size less that of the reference; positive for a skill that wants capacity.
        interval: of the residual.
        draws: of the residual, from a bootstrap that all skills share: draw i of one belongs to draw i of another.
        size_draws: of ln_size, from the same bootstrap.
        flags: of the skill's fit.
    """

    budget: float
    skill: str
    ln_size: float
    residual: float
    interval: tuple[float, float]
    draws: Float[ndarray, " resamples"]
    size_draws: Float[ndarray, " resamples"]
    flags: tuple[str, ...]


def isoflop_fit(
    sizes: Sequence[float],
    losses: Sequence[float],
    *,
    resamples: int = 1000,
    level: float = 0.9,
    seed: int = 0,
) -> IsoflopFit:
    """The compute-optimal size at one budget.

    A lowest point outside the sizes that were run is not extrapolated to, but flagged.

    Args:
        sizes: parameters of each run.
        losses: of each.
        resamples: of residuals.
        level: of the interval.
        seed: of the resampling.

    Raises:
        LawError: fewer than four runs, or fewer than three different sizes.
    """
    parabola = _Parabola(_logarithms(sizes))
    values = np.asarray(losses, float)
    if values.shape != (len(sizes),) or not np.isfinite(values).all():
        raise LawError("each size needs one finite loss", "leave out runs that diverged")
    coefficients = parabola.fit(values)
    vertex, flags = parabola.vertex(coefficients), parabola.flags(coefficients)
    picked = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    draws = parabola.redraw(values, picked)
    interval, unstable = _interval(draws, level)
    residuals = values - parabola.predict(coefficients)
    free = len(values) - 3
    return IsoflopFit(
        ln_size=math.nan if {OUTSIDE, CURVED_DOWN} & set(flags) else float(vertex),
        loss=float(coefficients[2] - coefficients[1] ** 2 / (4 * coefficients[0])) if coefficients[0] else math.nan,
        curvature=float(coefficients[0]),
        interval=interval,
        noise=float(np.sqrt((residuals**2).sum() / free)),
        flags=(*flags, *unstable),
    )


def power_law_fit(
    budgets: Sequence[float], ln_sizes: Sequence[float], weights: Sequence[float] | None = None
) -> PowerLaw:
    """How the best size grows with the budget, by weighted least squares of logarithms; nan sizes are left out.

    Raises:
        LawError: fewer than two budgets have a best size.
    """
    x, y = np.log(np.asarray(budgets, float)), np.asarray(ln_sizes, float)
    weight = np.ones(len(x)) if weights is None else np.asarray(weights, float)
    kept = np.isfinite(y) & (weight > 0)
    if len(set(x[kept].tolist())) < 2:
        raise LawError("a power law needs best sizes at two budgets or more", "run more budgets, or more sizes at each")
    x, y, weight = x[kept], y[kept], weight[kept]
    design = np.stack([x - x.mean(), np.ones(len(x))], 1)
    inverse = np.linalg.inv(design.T @ (weight[:, None] * design))
    slope, level = inverse @ design.T @ (weight * y)
    left = len(x) - 2
    variance = float((weight * (y - design @ [slope, level]) ** 2).sum()) / left if left else math.nan
    # Back from the centered logarithm.
    back = np.array([[1.0, 0.0], [-x.mean(), 1.0]])
    return PowerLaw(float(slope), float(level - slope * x.mean()), back @ (variance * inverse) @ back.T)


def skill_residuals(
    runs: Sequence[SkillRun],
    skill_of: Mapping[str, str],
    reference: str,
    *,
    resamples: int = 1000,
    level: float = 0.9,
    seed: int = 0,
) -> list[SkillResidual]:
    """Best sizes of skills against those of a reference, budget by budget.

    A skill's loss is the mean over its data sets. Residuals are resampled for all skills at once, run by run, so that
    what a run did well or badly by chance counts for all its losses together.

    Args:
        runs: at several sizes for each budget; the same size may occur with several seeds.
        skill_of: the skill of each data set.
        reference: a data set by itself, such as held-out text, or a skill.
        resamples: of the bootstrap.
        level: of the intervals.
        seed: of the resampling.

    Raises:
        LawError: a run lacks a loss, or a budget has too few runs.
    """
    members: dict[str, list[str]] = {}
    for name, skill in skill_of.items():
        members.setdefault(skill, []).append(name)
    members.setdefault(reference, [reference])
    table = []
    for budget in sorted({run.budget for run in runs}):
        here = [run for run in runs if run.budget == budget]
        parabola = _Parabola(_logarithms([run.parameters for run in here]))
        picked = np.random.default_rng(seed).integers(0, len(here), (resamples, len(here)))
        fits = {}
        for skill, names in members.items():
            values = _losses(here, names)
            coefficients = parabola.fit(values)
            flags = parabola.flags(coefficients)
            size = math.nan if {OUTSIDE, CURVED_DOWN} & set(flags) else float(parabola.vertex(coefficients))
            fits[skill] = size, parabola.redraw(values, picked), flags
        base, base_draws, base_flags = fits[reference]
        for skill, (size, draws, flags) in fits.items():
            if skill == reference:
                continue
            gaps = draws - base_draws
            interval, unstable = _interval(gaps, level)
            flags = (*flags, *(f"reference: {flag}" for flag in base_flags), *unstable)
            table.append(SkillResidual(budget, skill, size, size - base, interval, gaps, draws, flags))
    return table


def probability_above(first: SkillResidual, second: SkillResidual) -> float:
    """How often the first residual is above the second in the bootstrap they share; ties and lost draws count half."""
    gap = first.draws - second.draws
    return float(np.mean(np.where(np.isnan(gap) | (gap == 0), 0.5, gap > 0)))


class _Parabola:
    """Least-squares parabolas over fixed places, for many vectors of values at once."""

    def __init__(self, x: Float[ndarray, " runs"]) -> None:
        if len(x) < FEWEST or len(set(x.tolist())) < 3:
            raise LawError(
                f"{len(x)} runs of {len(set(x.tolist()))} sizes do not make a parabola and an error",
                f"run at least {FEWEST}, of 3 sizes, at each budget",
            )
        self.middle = float(x.mean())
        self.low, self.high = float(x.min()), float(x.max())
        at = x - self.middle
        self.design = np.stack([at**2, at, np.ones(len(x))], 1)
        self.inverse = np.linalg.pinv(self.design)
        # Residuals of a fit are smaller than the noise where a point pulls the curve to itself.
        leverage = np.einsum("ij,ji->i", self.design, self.inverse)
        self.enlarge = 1 / np.sqrt(np.clip(1 - leverage, 1e-3, None))

    def fit(self, values: Float[ndarray, "*batch runs"]) -> Float[ndarray, "*batch 3"]:
        return values @ self.inverse.T

    def predict(self, coefficients: Float[ndarray, "*batch 3"]) -> Float[ndarray, "*batch runs"]:
        return coefficients @ self.design.T

    def vertex(self, coefficients: Float[ndarray, "*batch 3"]) -> Float[ndarray, "*batch"]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.middle - coefficients[..., 1] / (2 * coefficients[..., 0]))

    def flags(self, coefficients: Float[ndarray, " 3"]) -> tuple[str, ...]:
        flags = [FEW] if len(self.design) < ENOUGH else []
        if coefficients[0] <= 0:
            flags.append(CURVED_DOWN)
        elif not self.low <= float(self.vertex(coefficients)) <= self.high:
            flags.append(OUTSIDE)
        return tuple(flags)

    def redraw(
        self, values: Float[ndarray, " runs"], picked: Int[ndarray, "resamples runs"]
    ) -> Float[ndarray, " resamples"]:
        """Lowest points with residuals of picked runs put in place of each run's own; nan where there is none."""
        fitted = self.predict(self.fit(values))
        residuals = (values - fitted) * self.enlarge
        coefficients = self.fit(fitted + (residuals - residuals.mean())[picked])
        return np.where(coefficients[:, 0] > 0, self.vertex(coefficients), math.nan)


def _interval(draws: Float[ndarray, " resamples"], level: float) -> tuple[tuple[float, float], tuple[str, ...]]:
    known = draws[np.isfinite(draws)]
    if not len(known):
        return (math.nan, math.nan), ((UNSTABLE,) if len(draws) else ())
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return (float(low), float(high)), (() if len(known) >= 0.9 * len(draws) else (UNSTABLE,))


def _logarithms(sizes: Sequence[float]) -> Float[ndarray, " runs"]:
    found = np.asarray(sizes, float)
    if not (np.isfinite(found).all() and (found > 0).all()):
        raise LawError("sizes must be positive", "give the number of parameters of each run")
    return np.log(found)


def _losses(runs: Sequence[SkillRun], names: Sequence[str]) -> Float[ndarray, " runs"]:
    try:
        table = np.array([[run.losses[name] for name in names] for run in runs], float)
    except KeyError as error:
        raise LawError(f"a run has no loss on {error.args[0]}", "evaluate every run on all data sets") from None
    if not np.isfinite(table).all():
        raise LawError("a run's loss is not finite", "leave out runs that diverged")
    return table.mean(1)
