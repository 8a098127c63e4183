"""What the runs of skill scaling say: the table's rows and the plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from octavo.laws.isoflop import SkillResidual, power_law_fit, probability_above
from octavo.laws.sweeps import Job
from octavo.recipes.recipe import Line, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT, KNOWLEDGE, REASONING = "text", "knowledge", "reasoning"
SKILL_OF = {"knowledge": KNOWLEDGE, "brackets": REASONING, "sums": REASONING}
HALVES = ("knowledge, one half", "knowledge, other half")
"""What models are judged on for the null test: facts in the even windows, and in the odd ones."""
LEVEL = 0.9
NONE = "no minimum within the sizes"


def _by_budget(table: Sequence[SkillResidual], skill: str) -> dict[float, SkillResidual]:
    return {row.budget: row for row in table if row.skill == skill}


def gaps(table: Sequence[SkillResidual]) -> list[Line]:
    """The difference of the two skills at each budget, and whether it is there at two of three."""
    knowledge, reasoning = _by_budget(table, KNOWLEDGE), _by_budget(table, REASONING)
    lines, sure, open_ = [], 0, 0
    for budget, first in knowledge.items():
        second = reasoning[budget]
        quantity, gap = f"r knowledge − r reasoning, {budget:.2g} FLOPs", first.residual - second.residual
        if math.isnan(gap):
            open_ += 1
            lines.append(Line(quantity, "+0.20", NONE, verdict=Verdict.undecided))
            continue
        above = probability_above(first, second)
        sure += above >= 0.95
        open_ += 0.05 < above < 0.95
        low, high = _ends(first.draws - second.draws)
        lines.append(Line(quantity, "+0.20", f"{gap:+.3f}", _span(low, high), Verdict.of(low, high)))
    needed = math.ceil(2 * len(knowledge) / 3)
    verdict = Verdict.holds if sure >= needed else Verdict.undecided if sure + open_ >= needed else Verdict.fails
    claim = f"above 0 with 95 % at {needed} of {len(knowledge)} budgets"
    lines.append(Line(claim, "yes", f"at {sure}", verdict=verdict))
    return lines


def residuals(table: Sequence[SkillResidual]) -> list[Line]:
    """How far each skill's best size lies from that of all text, over the budgets."""
    lines = []
    for skill, paper, sign in ((KNOWLEDGE, "+0.115", 1), (REASONING, "−0.085", -1)):
        rows = [row for row in _by_budget(table, skill).values() if math.isfinite(row.residual)]
        if not rows:
            lines.append(Line(f"mean r {skill}", paper, NONE, verdict=Verdict.undecided))
            continue
        low, high = _ends(np.mean([row.draws for row in rows], axis=0))
        verdict = Verdict.of(low, high) if sign > 0 else Verdict.of(-high, -low)
        lines.append(
            Line(f"mean r {skill}", paper, f"{np.mean([row.residual for row in rows]):+.3f}", _span(low, high), verdict)
        )
    return lines


def exponents(table: Sequence[SkillResidual]) -> list[Line]:
    """How the best sizes grow with the budget."""
    lines = []
    for skill in (KNOWLEDGE, REASONING):
        rows = [row for row in _by_budget(table, skill).values() if math.isfinite(row.ln_size)]
        if len(rows) >= 2:
            law = power_law_fit([row.budget for row in rows], [row.ln_size for row in rows])
            lines.append(Line(f"exponent of the best size, {skill}", "", f"{law.kappa:.2f}"))
    return lines


def shares(table: Sequence[SkillResidual], shifted: Sequence[SkillResidual], budget: float, change: str) -> list[Line]:
    """What more facts, and fewer problems, do to the best sizes at a budget: more of a skill should want more."""
    lines = []
    for skill, sign in ((KNOWLEDGE, 1), (REASONING, -1)):
        rows = [_by_budget(part, skill).get(budget) for part in (table, shifted)]
        more, less = rows
        quantity = f"ln p* {skill}, {change}"
        paper = "rises" if sign > 0 else "falls"
        if more is None or less is None or not math.isfinite(more.ln_size - less.ln_size):
            lines.append(Line(quantity, paper, NONE, verdict=Verdict.undecided))
            continue
        shift = more.ln_size - less.ln_size
        # Two sweeps with errors of their own, so their draws are not to be paired; 80 % on both sides is 90 % on one.
        low, high = _ends(more.size_draws - np.roll(less.size_draws, 1), 0.8)
        verdict = Verdict.of(low, high) if sign > 0 else Verdict.of(-high, -low)
        lines.append(Line(quantity, paper, f"{shift:+.3f}", _span(low, high, 0.8), verdict))
    return lines


def null(table: Sequence[SkillResidual]) -> Line:
    """Whether two halves of what one skill is judged on differ, which they should not."""
    one, other = (_by_budget(table, half) for half in HALVES)
    quantity = "r of one half of the facts − r of the other"
    rows = [(one[budget], other[budget]) for budget in one]
    rows = [(first, second) for first, second in rows if math.isfinite(first.ln_size - second.ln_size)]
    if not rows:
        return Line(quantity, "0", NONE, verdict=Verdict.undecided)
    gap = np.mean([first.ln_size - second.ln_size for first, second in rows])
    low, high = _ends(np.mean([first.size_draws - second.size_draws for first, second in rows], axis=0))
    verdict = Verdict.holds if low <= 0 <= high else Verdict.fails
    return Line(quantity, "0", f"{gap:+.3f}", _span(low, high), verdict)


def rates(rows: Sequence[Job], checked: Sequence[Job], factors: Sequence[float]) -> list[Line]:
    """What other learning rates would have done near the text's best size.

    Args:
        rows: runs at the rate that was chosen.
        checked: a few of them at the other rates.
        factors: of the rates, in order.
    """
    lines = []
    for parameters, budget, seed in sorted({_model(row) for row in checked}):
        by_rate = {row["rate"]: row["losses"] for row in rows if _model(row) == (parameters, budget, seed)}
        by_rate |= {row["rate"]: row["losses"] for row in checked if row["parameters"] == parameters}
        if len(by_rate) < len(factors):
            continue  # One of the runs failed, which the notes say.
        losses = [by_rate[rate] for rate in sorted(by_rate)]
        for skill in (TEXT, KNOWLEDGE, REASONING):
            told = ", ".join(f"{skill_loss(loss, skill):.3f}" for loss in losses)
            factor = " / ".join(f"{factor:g}" for factor in factors)
            lines.append(Line(f"loss on {skill} at {factor} × the learning rate, {parameters:,} parameters", "", told))
    return lines


def _model(row: Job) -> tuple[int, float, int]:
    return row["parameters"], row["budget"], row["seed"]


def skill_loss(losses: Mapping[str, float], skill: str) -> float:
    """Of one skill, or of all text."""
    members = [name for name, of in SKILL_OF.items() if of == skill] or [skill]
    return float(np.mean([losses[name] for name in members]))


def _ends(draws: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    known = draws[np.isfinite(draws)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _span(low: float, high: float, level: float = LEVEL) -> str:
    return "" if math.isnan(low) else f"{low:+.3f} … {high:+.3f} ({level:.0%})"


def figures(table: Sequence[SkillResidual]) -> list[dict[str, Any]]:
    """The table as JSON can hold it."""

    def known(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return [
        {
            "budget": row.budget,
            "skill": row.skill,
            "ln_size": known(row.ln_size),
            "residual": known(row.residual),
            "interval": [known(end) for end in row.interval],
            "flags": list(row.flags),
        }
        for row in table
    ]


def draw(figure: Figure, rows: Sequence[Job], table: Sequence[SkillResidual]) -> None:
    """The losses of each skill with their parabolas, and how far the best sizes lie from that of all text."""
    axes = figure.subplots(1, 3)
    budgets = sorted({row["budget"] for row in rows})
    for place, skill in enumerate((KNOWLEDGE, REASONING)):
        for number, budget in enumerate(budgets):
            here = sorted((row for row in rows if row["budget"] == budget), key=lambda row: row["parameters"])
            x = np.array([row["parameters"] for row in here], float)
            y = np.array([skill_loss(row["losses"], skill) for row in here])
            axes[place].plot(x, y, "o", color=f"C{number}", label=f"{budget:.2g} FLOPs")
            parabola = np.polyfit(np.log(x), y, 2)
            fine = np.geomspace(x.min(), x.max(), 60)
            axes[place].plot(fine, np.polyval(parabola, np.log(fine)), color=f"C{number}")
            best = _by_budget(table, skill)[budget].ln_size
            if math.isfinite(best):
                axes[place].plot(math.exp(best), np.polyval(parabola, best), "k*", markersize=10)
        axes[place].set(xscale="log", xlabel="parameters", ylabel="nats per character of the answers", title=skill)
    axes[0].legend(frameon=False, fontsize=8)
    for number, skill in enumerate((KNOWLEDGE, REASONING)):
        found = [row for row in _by_budget(table, skill).values() if math.isfinite(row.residual)]
        if found:
            middle = np.array([row.residual for row in found])
            errors = np.clip(np.abs(np.array([row.interval for row in found]).T - middle), 0, 2)
            x = [row.budget for row in found]
            axes[2].errorbar(x, middle, errors, fmt="o-", color=f"C{3 + number}", label=skill)
    axes[2].axhline(0, color="gray", linewidth=0.8)
    low, high = budgets[0] / 1.5, budgets[-1] * 1.5
    axes[2].set(
        xscale="log",
        xlim=(low, high),
        xlabel="FLOPs",
        ylabel="r: ln of best size over that of all text",
        title="best sizes",
    )
    if axes[2].get_legend_handles_labels()[0]:
        axes[2].legend(frameon=False)
    else:
        axes[2].text(0.5, 0.5, NONE, ha="center", transform=axes[2].transAxes)
