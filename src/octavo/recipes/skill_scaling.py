"""Does knowledge want more parameters, and reasoning more tokens? (arXiv 2503.10061)

Models of many sizes are trained on a text of two skills (octavo.recipes.skill_corpus) for a few budgets of compute. At
each budget the loss on a skill's answers is a parabola in the logarithm of the size; its lowest point is the size that
is best for the skill, and is held against the one that is best for all text. Then the share of facts is halved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from octavo.laws.isoflop import SkillResidual, SkillRun, power_law_fit, probability_above, skill_residuals
from octavo.laws.sweeps import Job
from octavo.recipes.recipe import Findings, Kitchen, Line, Scale, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT, KNOWLEDGE, REASONING = "text", "knowledge", "reasoning"
SKILL_OF = {"knowledge": KNOWLEDGE, "brackets": REASONING, "backwards": REASONING, "onwards": REASONING}
LEVEL = 0.9
EVEN = 0.5
"""The share of facts in the main text, and in what models are judged on."""


@dataclass(frozen=True)
class Plan:
    """The runs of a scale.

    Attributes:
        widths: of the models at each budget in FLOPs.
        layers: of each model.
        facts: in the text.
        items: a window has.
        steps: of each run, unless batches came below the fewest windows.
        fewest: windows a step.
        rate: learning rate at the reference width.
        seeds: at the middle budget; the others have one.
        share: of facts in the other text, at the middle budget.
        judged: windows of the evaluation.
    """

    widths: Mapping[float, Sequence[int]]
    layers: int
    facts: int
    items: int
    steps: int
    fewest: int
    rate: float
    seeds: int
    share: float
    judged: int

    @property
    def middle(self) -> float:
        """The budget in the middle."""
        return sorted(self.widths)[len(self.widths) // 2]


PLANS = {
    Scale.tiny: Plan(
        widths={2e7: (4, 8, 12, 16, 24), 4e7: (4, 8, 12, 16, 24)},
        layers=1, facts=64, items=4, steps=8, fewest=4, rate=1e-2, seeds=1, share=0.25, judged=64,
    ),
    Scale.default: Plan(
        widths={
            5e10: (12, 16, 20, 24, 32, 40, 56),
            1e11: (12, 16, 20, 24, 32, 48, 64),
            2e11: (16, 20, 24, 32, 40, 56, 80),
        },
        layers=2, facts=4096, items=4, steps=800, fewest=8, rate=1e-2, seeds=2, share=0.25, judged=4096,
    ),
    Scale.gpu: Plan(
        widths={
            1e15: (64, 96, 128, 160, 224, 320, 448),
            3e15: (96, 128, 160, 224, 320, 448, 640),
            1e16: (128, 160, 224, 320, 448, 640, 896),
        },
        layers=4, facts=1 << 20, items=16, steps=4000, fewest=32, rate=6e-3, seeds=2, share=0.25, judged=8192,
    ),
}  # fmt: skip


def cook(kitchen: Kitchen) -> Findings:
    """Train the models, and compare the sizes that are best for each skill."""
    plan = PLANS[kitchen.scale]
    jobs = list(_jobs(plan, kitchen))
    rows = kitchen.sweep(jobs, train_skills, "models").rows
    even = [row for row in rows if row["share"] == EVEN]
    table = skill_residuals([_run(row) for row in even], SKILL_OF, TEXT, seed=kitchen.seed, level=LEVEL)
    other = [_run(row) for row in rows if row["share"] == plan.share]
    shifted = skill_residuals(other, SKILL_OF, TEXT, seed=kitchen.seed, level=LEVEL)
    lines = [*_gaps(table), *_residuals(table), *_exponents(table), *_shares(table, shifted, plan)]
    figures = {"runs": rows, "residuals": [_figures(row) for row in table], "share": [_figures(row) for row in shifted]}
    return Findings(tuple(lines), figures, lambda figure: _draw(figure, even, table), _notes(plan, rows, kitchen))


def _jobs(plan: Plan, kitchen: Kitchen) -> list[Job]:
    """The longest first, so that no worker is left with one at the end."""
    found = []
    for budget, widths in sorted(plan.widths.items(), reverse=True):
        runs = [(EVEN, seed) for seed in range(plan.seeds if budget == plan.middle else 1)]
        runs += [(plan.share, 0)] if budget == plan.middle else []
        for hidden in sorted(widths):
            for share, seed in runs:
                found.append(
                    {
                        "budget": budget,
                        "hidden": hidden,
                        "layers": plan.layers,
                        "heads": max(1, hidden // 64) if hidden >= 128 else 2,
                        "share": share,
                        "seed": kitchen.seed + seed,
                        "text": kitchen.seed,
                        "facts": plan.facts,
                        "items": plan.items,
                        "steps": plan.steps,
                        "fewest": plan.fewest,
                        "rate": plan.rate,
                        "judged": plan.judged,
                        "device": kitchen.device,
                    }
                )
    return found


def train_skills(job: Job) -> dict[str, Any]:
    """Train one model, and measure its loss on each kind of answer and on all text."""
    from octavo.recipes.language_models import Size, operations_per_token, parameter_count, schedule, training_config
    from octavo.recipes.skill_corpus import ALPHABET, ITEM, SkillCorpus, SkillWindows
    from octavo.training import next_token_loss, train

    size = Size(job["hidden"], job["layers"], job["heads"])
    length = job["items"] * ITEM
    network = size.network(len(ALPHABET), length, job["seed"])
    cost, parameters = operations_per_token(network.config, length), parameter_count(network.config)
    steps, batch = schedule(job["budget"] / cost, length, job["steps"], job["fewest"])
    corpus = SkillCorpus(job["facts"], job["share"], job["text"])
    source = SkillWindows(corpus, job["items"], batch, f"training {job['seed']}")
    rate = size.learning_rate(job["rate"])
    train(network, next_token_loss, source, training_config(steps, rate, job["seed"], job["device"]))
    tokens = steps * source.tokens
    return {
        "parameters": parameters,
        "tokens": tokens,
        "operations": tokens * cost,
        "six_p_t": 6 * parameters * tokens,
        "learning_rate": rate,
        "batch": batch,
        "exposures": float(np.median(corpus.exposures(tokens))),
        "losses": evaluate(network, SkillCorpus(job["facts"], EVEN, job["text"]), job["items"], job["judged"]),
    }


def evaluate(network: Any, corpus: Any, items: int, windows: int, batch: int = 256) -> dict[str, float]:
    """Nats a character: of the answers of each kind of item, and of all text."""
    import torch
    import torch.nn.functional as F

    from octavo.recipes.skill_corpus import ITEM, KINDS, SkillWindows, answer_mask

    source = SkillWindows(corpus, items, min(batch, windows), "evaluation")
    device = next(network.parameters()).device
    sums, counts = dict.fromkeys((*KINDS, TEXT), 0.0), dict.fromkeys((*KINDS, TEXT), 0)
    network.eval()
    for index in range(max(1, windows // min(batch, windows))):
        found = source.batch(index)
        tokens, kinds = found["tokens"].to(device), found["kinds"].flatten().numpy()
        with torch.no_grad():
            logits = network(tokens[:, :-1]).flatten(0, 1).float()
        lost = F.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="none").cpu().double().numpy()
        lost, answers = lost.reshape(-1, ITEM), answer_mask(kinds)
        for number, kind in enumerate(KINDS):
            chosen = answers & (kinds == number)[:, None]
            sums[kind] += float(lost[chosen].sum())
            counts[kind] += int(chosen.sum())
        sums[TEXT] += float(lost.sum())
        counts[TEXT] += lost.size
    return {kind: sums[kind] / max(1, counts[kind]) for kind in sums}


def _run(row: Job) -> SkillRun:
    return SkillRun(row["budget"], row["parameters"], row["losses"])


def _by_budget(table: Sequence[SkillResidual], skill: str) -> dict[float, SkillResidual]:
    return {row.budget: row for row in table if row.skill == skill}


def _gaps(table: Sequence[SkillResidual]) -> list[Line]:
    """The difference of the two skills at each budget, and whether it is there at two of three."""
    knowledge, reasoning = _by_budget(table, KNOWLEDGE), _by_budget(table, REASONING)
    lines, sure = [], 0
    for budget, first in knowledge.items():
        second = reasoning[budget]
        draws = first.draws - second.draws
        gap, chance = first.residual - second.residual, probability_above(first, second)
        sure += math.isfinite(gap) and chance >= 0.95
        low, high = _ends(draws)
        verdict = Verdict.undecided if math.isnan(gap) else Verdict.of(low, high)
        ours = _number(gap, first.flags + second.flags)
        lines.append(Line(f"r knowledge − r reasoning, {budget:.0e} FLOPs", "+0.20", ours, _span(low, high), verdict))
    needed = math.ceil(2 * len(knowledge) / 3)
    verdict = Verdict.holds if sure >= needed else Verdict.fails
    claim = f"above 0 with 95 % at {needed} of {len(knowledge)} budgets"
    lines.append(Line(claim, "yes", f"at {sure}", verdict=verdict))
    return lines


def _residuals(table: Sequence[SkillResidual]) -> list[Line]:
    lines = []
    for skill, paper, sign in ((KNOWLEDGE, "+0.115", 1), (REASONING, "−0.085", -1)):
        rows = [row for row in _by_budget(table, skill).values() if math.isfinite(row.residual)]
        if not rows:
            lines.append(Line(f"mean r {skill}", paper, "no minimum within the sizes", verdict=Verdict.undecided))
            continue
        low, high = _ends(np.mean([row.draws for row in rows], axis=0))
        verdict = Verdict.of(low, high) if sign > 0 else Verdict.of(-high, -low)
        lines.append(
            Line(f"mean r {skill}", paper, f"{np.mean([row.residual for row in rows]):+.3f}", _span(low, high), verdict)
        )
    return lines


def _exponents(table: Sequence[SkillResidual]) -> list[Line]:
    lines = []
    for skill in (KNOWLEDGE, REASONING):
        rows = [row for row in _by_budget(table, skill).values() if math.isfinite(row.ln_size)]
        if len(rows) >= 2:
            law = power_law_fit([row.budget for row in rows], [row.ln_size for row in rows])
            lines.append(Line(f"exponent of the best size, {skill}", "", f"{law.kappa:.2f}"))
    return lines


def _shares(table: Sequence[SkillResidual], shifted: Sequence[SkillResidual], plan: Plan) -> list[Line]:
    """What halving the share of facts does to the best sizes: less of a skill should want a smaller model."""
    lines = []
    for skill, sign in ((KNOWLEDGE, 1), (REASONING, -1)):
        rows = [_by_budget(part, skill).get(plan.middle) for part in (table, shifted)]
        more, less = rows
        quantity = f"ln p* {skill}, facts {plan.share:.0%} → {EVEN:.0%}"
        paper = "rises" if sign > 0 else "falls"
        if more is None or less is None or not math.isfinite(more.ln_size - less.ln_size):
            lines.append(Line(quantity, paper, "no minimum within the sizes", verdict=Verdict.undecided))
            continue
        change = more.ln_size - less.ln_size
        # Two sweeps with errors of their own, so their draws are not to be paired; 80 % on both sides is 90 % on one.
        low, high = _ends(more.size_draws - np.roll(less.size_draws, 1), 0.8)
        verdict = Verdict.of(low, high) if sign > 0 else Verdict.of(-high, -low)
        lines.append(Line(quantity, paper, f"{change:+.3f}", _span(low, high, 0.8), verdict))
    return lines


def _ends(draws: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    known = draws[np.isfinite(draws)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _span(low: float, high: float, level: float = LEVEL) -> str:
    return "" if math.isnan(low) else f"{low:+.3f} … {high:+.3f} ({level:.0%})"


def _number(value: float, flags: tuple[str, ...]) -> str:
    return f"{value:+.3f}" if math.isfinite(value) else "; ".join(dict.fromkeys(flags))


def _figures(row: SkillResidual) -> dict[str, Any]:
    return {
        "budget": row.budget,
        "skill": row.skill,
        "ln_size": row.ln_size if math.isfinite(row.ln_size) else None,
        "residual": row.residual if math.isfinite(row.residual) else None,
        "interval": [each if math.isfinite(each) else None for each in row.interval],
        "flags": list(row.flags),
    }


def _notes(plan: Plan, rows: Sequence[Job], kitchen: Kitchen) -> tuple[str, ...]:
    sizes = [row["parameters"] for row in rows]
    exposures = [row["exposures"] for row in rows]
    return (
        f"{len(rows)} runs of {min(sizes):,} to {max(sizes):,} parameters (head included, input embedding not), each "
        f"with a whole decay of its learning rate; FLOPs are counted, attention included",
        f"{plan.seeds} seeds at {plan.middle:.0e} FLOPs, one at the other budgets, from {kitchen.seed} on",
        f"{plan.facts} facts of {18.8 * plan.facts / 1e3:.0f} kbit, the median one seen "
        f"{min(exposures):.1f} to {max(exposures):.0f} times",
        "r is the natural logarithm of a skill's best size over that of all text; one bootstrap of residuals for all "
        "skills. The paper's figures are of models of 40 M to 8 B parameters on real text, read off its plots",
    )


def _draw(figure: Figure, rows: Sequence[Job], table: Sequence[SkillResidual]) -> None:
    axes = figure.subplots(1, 3)
    budgets = sorted({row["budget"] for row in rows})
    for place, skill in enumerate((KNOWLEDGE, REASONING)):
        for number, budget in enumerate(budgets):
            here = sorted((row for row in rows if row["budget"] == budget), key=lambda row: row["parameters"])
            x = np.array([row["parameters"] for row in here], float)
            y = np.array([np.mean([row["losses"][k] for k, s in SKILL_OF.items() if s == skill]) for row in here])
            axes[place].plot(x, y, "o", color=f"C{number}", label=f"{budget:.0e} FLOPs")
            parabola = np.polyfit(np.log(x), y, 2)
            fine = np.geomspace(x.min(), x.max(), 60)
            axes[place].plot(fine, np.polyval(parabola, np.log(fine)), color=f"C{number}")
            best = _by_budget(table, skill)[budget].ln_size
            if math.isfinite(best):
                axes[place].plot(math.exp(best), np.polyval(parabola, best), "k*", markersize=10)
        axes[place].set(xscale="log", xlabel="parameters", ylabel="nats per character of the answers", title=skill)
    axes[0].legend(frameon=False, fontsize=8)
    for number, skill in enumerate((KNOWLEDGE, REASONING)):
        found = _by_budget(table, skill).values()
        middle = [row.residual for row in found]
        errors = np.abs(np.array([row.interval for row in found]).T - np.array(middle))
        axes[2].errorbar([row.budget for row in found], middle, errors, fmt="o-", color=f"C{3 + number}", label=skill)
    axes[2].axhline(0, color="gray", linewidth=0.8)
    axes[2].set(xscale="log", xlabel="FLOPs", ylabel="r: ln of best size over that of all text", title="best sizes")
    axes[2].legend(frameon=False)
