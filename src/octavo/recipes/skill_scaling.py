"""Does knowledge want more parameters, and reasoning more tokens? (arXiv 2503.10061)

Models of many sizes are trained on a text of two skills (octavo.recipes.skill_corpus) for a few budgets of compute. At
each budget the loss on a skill's answers is a parabola in the logarithm of the size; its lowest point is the size that
is best for the skill, and is held against the one that is best for all text. Then the share of facts is halved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from octavo.laws.isoflop import SkillRun, skill_residuals
from octavo.laws.sweeps import Job
from octavo.recipes.recipe import Findings, Kitchen, Scale
from octavo.recipes.skill_report import LEVEL, SKILL_OF, TEXT, draw, exponents, figures, gaps, residuals, shares

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
    change = f"facts {plan.share:.0%} → {EVEN:.0%}"
    lines = (*gaps(table), *residuals(table), *exponents(table), *shares(table, shifted, plan.middle, change))
    found = {"runs": rows, "residuals": figures(table), "share": figures(shifted)}
    return Findings(lines, found, lambda figure: draw(figure, even, table), _notes(plan, rows, kitchen))


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
