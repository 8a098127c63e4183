"""Does knowledge want more parameters, and reasoning more tokens? (arXiv 2503.10061)

Models of many sizes are trained on a text of two skills (octavo.recipes.skill_corpus) for a few budgets of compute. At
each budget the loss on a skill's answers is a parabola in the logarithm of the size; its lowest point is the size that
is best for the skill, and is held against the one that is best for all text. Then the share of facts is halved; and at
the two best sizes of the middle budget other learning rates are tried, for a wrong one would move the best size too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from octavo.laws.isoflop import SkillRun, skill_residuals
from octavo.laws.sweeps import Job
from octavo.recipes.recipe import Findings, Kitchen, Scale
from octavo.recipes.skill_report import (
    HALVES,
    KNOWLEDGE,
    LEVEL,
    SKILL_OF,
    TEXT,
    draw,
    exponents,
    figures,
    gaps,
    null,
    rates,
    residuals,
    shares,
)

EVEN = 0.5
"""The share of facts in the main text, and in what models are judged on."""
RATES = (0.5, 1, 2)
"""Learning rates that are compared at the two best sizes, against that of the plan."""


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
        seeds: of each model.
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
            7.5e10: (12, 16, 20, 24, 32, 40, 48),
            1.5e11: (12, 16, 24, 32, 40, 48, 64),
            3e11: (16, 24, 32, 40, 48, 64, 80),
        },
        layers=2, facts=20480, items=4, steps=1500, fewest=8, rate=5e-3, seeds=3, share=0.25, judged=4096,
    ),
    Scale.gpu: Plan(
        widths={
            1e13: (24, 32, 48, 64, 96, 128, 192),
            3e13: (32, 48, 64, 96, 128, 192, 256),
            1e14: (48, 64, 96, 128, 192, 256, 320),
        },
        layers=4, facts=640_000, items=16, steps=4000, fewest=8, rate=5e-3, seeds=2, share=0.25, judged=8192,
    ),
}  # fmt: skip


def cook(kitchen: Kitchen) -> Findings:
    """Train the models, and compare the sizes that are best for each skill."""
    plan = PLANS[kitchen.scale]
    jobs = list(_jobs(plan, kitchen))
    rows = kitchen.sweep(jobs, train_skills, "models").rows
    even = [row for row in rows if row["share"] == EVEN]
    checked = kitchen.sweep(_neighbors(plan, jobs, even), train_skills, "models at other learning rates").rows
    table = skill_residuals([_run(row) for row in even], SKILL_OF, TEXT, seed=kitchen.seed, level=LEVEL)
    halves = skill_residuals(
        [_run(row) for row in even], dict(zip(HALVES, HALVES, strict=True)), TEXT, seed=kitchen.seed, level=LEVEL
    )
    other = [_run(row) for row in rows if row["share"] == plan.share]
    shifted = skill_residuals(other, SKILL_OF, TEXT, seed=kitchen.seed, level=LEVEL)
    change = f"facts {plan.share:.0%} → {EVEN:.0%}"
    lines = (
        *gaps(table), *residuals(table), *exponents(table), *shares(table, shifted, plan.middle, change),
        null(halves), *rates(even, checked, RATES),
    )  # fmt: skip
    found = {"runs": [*rows, *checked], "residuals": figures(table), "share": figures(shifted)}
    return Findings(lines, found, lambda figure: draw(figure, even, table), _notes(plan, [*rows, *checked], kitchen))


def _jobs(plan: Plan, kitchen: Kitchen) -> list[Job]:
    """The longest first, so that no worker is left with one at the end."""
    found = []
    for budget, widths in sorted(plan.widths.items(), reverse=True):
        shares = (EVEN, plan.share) if budget == plan.middle else (EVEN,)
        for hidden in sorted(widths):
            for share, seed in product(shares, range(plan.seeds)):
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


def _neighbors(plan: Plan, jobs: Sequence[Job], rows: Sequence[Job]) -> list[Job]:
    """The runs beside the best for the text at the middle budget, with half and twice the learning rate."""
    here = [row for row in rows if row["budget"] == plan.middle and row["seed"] == min(row["seed"] for row in rows)]
    best = sorted(here, key=lambda row: row["losses"][TEXT])[:2]
    chosen = [{name: row[name] for name in jobs[0]} for row in best]
    return [job | {"rate": plan.rate * factor} for job in chosen for factor in RATES if factor != 1]


def train_skills(job: Job) -> dict[str, Any]:
    """Train one model, and measure its loss on each kind of answer and on all text."""
    from octavo.recipes.language_models import Size, operations_per_token, parameter_count, schedule, training_config
    from octavo.recipes.skill_corpus import SkillCorpus, SkillWindows
    from octavo.recipes.skill_problems import ALPHABET, ITEM
    from octavo.training import next_token_loss, train

    began = time.process_time()
    size = Size(job["hidden"], job["layers"], job["heads"])
    length = job["items"] * ITEM
    network = _widened(size.network(len(ALPHABET), length, job["seed"]))
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
        "processor_seconds": time.process_time() - began,
    }


def _widened(network: Any) -> Any:
    """Make initial matrices deviate by 1/√columns, as μP has it, instead of 0.02.

    Small networks that start with small weights stay long where they started, and then learn all at once.
    """
    import torch

    from octavo.models.transformer import STANDARD_DEVIATION

    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter *= parameter.shape[1] ** -0.5 / STANDARD_DEVIATION
    return network


def evaluate(network: Any, corpus: Any, items: int, windows: int, batch: int = 256) -> dict[str, float]:
    """Nats a character: of the answers of each kind of item, of facts by halves of the windows, and of all text."""
    import torch
    import torch.nn.functional as F

    from octavo.recipes.skill_corpus import KINDS, SkillWindows, answer_mask
    from octavo.recipes.skill_problems import ITEM

    size = min(batch, windows)
    source = SkillWindows(corpus, items, size, "evaluation", unseen=True)
    device = next(network.parameters()).device
    names = (*KINDS, *HALVES, TEXT)
    sums, counts = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    network.eval()
    for index in range(max(1, windows // size)):
        found = source.batch(index)
        tokens, kinds = found["tokens"].to(device), found["kinds"].flatten().numpy()
        with torch.no_grad():
            logits = network(tokens[:, :-1]).flatten(0, 1).float()
        lost = F.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="none").cpu().double().numpy()
        lost, shown = lost.reshape(-1, ITEM), found["tokens"][:, 1:].reshape(-1, ITEM).numpy()
        answers = answer_mask(shown, kinds)
        chosen = {kind: answers & (kinds == number)[:, None] for number, kind in enumerate(KINDS)}
        half = np.arange(len(kinds)) // items % len(HALVES)
        chosen |= {name: chosen[KNOWLEDGE] & (half == number)[:, None] for number, name in enumerate(HALVES)}
        chosen[TEXT] = np.ones_like(answers)
        for name, where in chosen.items():
            sums[name] += float(lost[where].sum())
            counts[name] += int(where.sum())
    return {name: sums[name] / max(1, counts[name]) for name in names}


def _run(row: Job) -> SkillRun:
    return SkillRun(row["budget"], row["parameters"], row["losses"])


def _notes(plan: Plan, rows: Sequence[Job], kitchen: Kitchen) -> tuple[str, ...]:
    sizes = [row["parameters"] for row in rows]
    exposures = [row["exposures"] for row in rows]
    return (
        f"{len(rows)} runs of {min(sizes):,} to {max(sizes):,} parameters (head included, input embedding not), each "
        f"with a whole decay of its learning rate; FLOPs are counted, attention included",
        f"{sum(row['processor_seconds'] for row in rows):.0f} s of processor time",
        f"{plan.seeds} seeds of each model, from {kitchen.seed} on",
        f"{plan.facts} facts of {18.8 * plan.facts / 1e3:.0f} kbit, the median one seen "
        f"{min(exposures):.1f} to {max(exposures):.0f} times",
        "r is the natural logarithm of a skill's best size over that of all text; one bootstrap of residuals for all "
        "skills. The paper's figures are of models of 40 M to 8 B parameters on real text, read off its plots",
    )
