"""What the series of overtraining says: tables of seeds by tokens, the rows of the table and the plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from octavo.laws.overtraining_theory import TwoLayers
from octavo.laws.sweeps import Job
from octavo.recipes.recipe import Line, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from octavo.laws.overtraining import Inflection

TOY_NOISE = 0.06


@dataclass(frozen=True)
class Series:
    """The results as tables of seeds by tokens.

    Attributes:
        tokens: of each length of training.
        gammas, relative: noise on the two scales.
        rates: of fine-tuning.
        rows: by seed and tokens.
        seeds: with a run for every number of tokens.
    """

    tokens: Sequence[int]
    gammas: Sequence[float]
    relative: Sequence[float]
    rates: Sequence[float]
    rows: dict[tuple[int, int], Job]
    seeds: Sequence[int]

    def table(self, *keys: str) -> np.ndarray:
        """A figure of every run: [seeds, tokens]."""

        def figure(row: Any) -> float:
            for key in keys:
                row = row[key]
            return float(row)

        return np.array([[figure(self.rows[seed, tokens]) for tokens in self.tokens] for seed in self.seeds])

    def best_rate(self, name: str) -> np.ndarray:
        """A loss after fine-tuning at the rate that is best on the task for each run."""
        rates = [f"{rate:g}" for rate in self.rates]
        task = np.stack([self.table("tuned", rate, "task") for rate in rates])
        wanted = np.stack([self.table("tuned", rate, name) for rate in rates])
        return np.take_along_axis(wanted, task.argmin(0)[None], 0)[0]

    def changed(self) -> dict[str, np.ndarray]:
        """Losses after each change, by its name."""
        found = {f"noise γ = {g:g}": self.table("noise", "fixed", f"{g:g}") for g in self.gammas}
        found |= {f"relative noise {g:g}": self.table("noise", "relative", f"{g:g}") for g in self.relative}
        found |= {f"tuned at {rate:g}, text": self.table("tuned", f"{rate:g}", "text") for rate in self.rates}
        found |= {f"tuned at {rate:g}, task": self.table("tuned", f"{rate:g}", "task") for rate in self.rates}
        return found | {f"tuned at the best rate, {name}": self.best_rate(name) for name in ("text", "task")}

    def turn(self, losses: np.ndarray) -> Inflection:
        """Where a loss after a change is least."""
        from octavo.laws.overtraining import inflection

        return inflection(self.tokens, losses)

    def lines(self) -> tuple[Line, ...]:
        """The claims."""
        base = self.table("base")
        falls = base.mean(0)
        lines = [
            Line(
                "loss without a change, fewest → most tokens",
                "falls",
                f"{falls[0]:.3f} → {falls[-1]:.3f}",
                verdict=Verdict.holds if all(np.diff(falls) < 0) else Verdict.fails,
            ),
            Line("weights over those before training", "", " → ".join(f"{g:.2f}" for g in self._growth())),
            self._rise(f"what noise adds, each of γ = {_list(self.gammas)}", "fixed", self.gammas),
            self._rise(f"what relative noise adds, each of {_list(self.relative)}", "relative", self.relative),
        ]
        lines += [
            self._turn(f"loss after noise γ = {g:g}", self.table("noise", "fixed", f"{g:g}")) for g in self.gammas
        ]
        largest = f"{self.rates[-1]:g}"
        for name, what in (("text", "text of pretraining"), ("task", "task")):
            lines.append(self._turn(f"tuned at {largest}: loss on the {what}", self.table("tuned", largest, name)))
        for name, what in (("text", "text of pretraining"), ("task", "task")):
            lines.append(self._turn(f"tuned at the best rate: loss on the {what}", self.best_rate(name)))
        return tuple(lines)

    def _growth(self) -> np.ndarray:
        return self.table("growth").mean(0)[[0, -1]]

    def _rise(self, quantity: str, kind: str, gammas: Sequence[float]) -> Line:
        """Whether the rank correlation with tokens is at least 0.9 for every strength."""
        from scipy.stats import spearmanr

        added = [self.table("noise", kind, f"{gamma:g}") - self.table("base") for gamma in gammas]
        found: list[Any] = [spearmanr(self.tokens, each.mean(0)) for each in added]
        ranks = [float(each.statistic) for each in found]
        growth = [float(each[:, -1].mean() / each[:, 0].mean()) for each in added]
        verdict = Verdict.holds if min(ranks) >= 0.9 else Verdict.fails
        ours = f"rank correlation {min(ranks):+.2f} to {max(ranks):+.2f}; ×{min(growth):.3g} to ×{max(growth):.3g}"
        return Line(quantity, "rises with tokens", ours, verdict=verdict)

    def _turn(self, quantity: str, losses: np.ndarray) -> Line:
        found = self.turn(losses)
        mean = losses.mean(0)
        ours = f"{mean[0]:.3f} → {found.tokens:,}: {mean.min():.3f} → {mean[-1]:.3f}"
        if found.tokens == self.tokens[-1]:
            return Line(quantity, "falls, then rises", f"{mean[0]:.3f} → {mean[-1]:.3f}, falls", "", Verdict.fails)
        low, high = found.excess - 2 * found.error, found.excess + 2 * found.error
        span = f"excess {low:+.3f} … {high:+.3f}" if math.isfinite(low) else f"excess {found.excess:+.3f}, one seed"
        return Line(quantity, "falls, then rises", ours, span, Verdict.of(low, high))

    def figures(self) -> dict[str, Any]:
        """Where each loss turns."""
        if not self.seeds:
            return {}
        found = {}
        for name, losses in self.changed().items():
            turn = self.turn(losses)
            found[name] = {
                "losses": losses.mean(0).tolist(),
                "best_tokens": turn.tokens,
                "probability": turn.probability,
                "excess": turn.excess,
                "error": turn.error if math.isfinite(turn.error) else None,
            }
        return {"tokens": self.tokens, "base": self.table("base").mean(0).tolist(), "changes": found}


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def theory() -> tuple[Line, ...]:
    """The turn in closed form."""
    model = TwoLayers.harmonic()
    times = np.concatenate([[0.0], np.geomspace(0.5, 2000, 400)])
    losses = [model.loss(model.learned(time), TOY_NOISE) for time in times]
    best = int(np.argmin(losses))
    ours = f"{losses[0]:.3f} → t = {times[best]:.1f}: {losses[best]:.3f} → {losses[-1]:.3f}"
    verdict = Verdict.holds if 0 < best < len(times) - 1 else Verdict.fails
    return (
        Line(
            f"two linear layers, γ = {TOY_NOISE}: loss after noise", "falls, then rises", ours, "closed form", verdict
        ),
    )


def draw(figure: Figure, series: Series) -> None:
    """The closed form, and the losses after noise and after fine-tuning over the tokens of pretraining."""
    axes = figure.subplots(1, 3)
    model = TwoLayers.harmonic()
    times = np.geomspace(0.5, 1000, 200)
    for noise in (0.0, 0.03, 0.045, TOY_NOISE):
        losses = [model.loss(model.learned(time), noise) for time in times]
        axes[0].plot(times, losses, label=f"γ = {noise:g}")
    axes[0].set(xscale="log", xlabel="time", ylabel="expected loss", title="two linear layers, closed form")
    axes[0].legend(frameon=False, fontsize=8)
    if not series.seeds:
        return
    tokens = series.tokens
    for place, kind in ((1, "noise"), (2, "tuned")):
        strengths = series.gammas if kind == "noise" else series.rates
        axes[place].plot(tokens, series.table("base").mean(0), "k--", label="no change")
        for strength in strengths:
            keys = ("noise", "fixed", f"{strength:g}") if kind == "noise" else ("tuned", f"{strength:g}", "text")
            losses = series.table(*keys)
            error = losses.std(0, ddof=1) / math.sqrt(len(losses)) if len(losses) > 1 else None
            label = f"γ = {strength:g}" if kind == "noise" else f"rate {strength:g}"
            axes[place].errorbar(tokens, losses.mean(0), error, fmt="o-", markersize=3, label=label)
        axes[place].set(
            xscale="log", yscale="log", xlabel="bytes of pretraining", ylabel="nats per byte, held-out text"
        )
        axes[place].legend(frameon=False, fontsize=8)
    axes[1].set_title("after noise on the weights")
    axes[2].set_title("after fine-tuning on code")
