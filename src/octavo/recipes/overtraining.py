"""Does a change hurt a model more, the longer it was trained? (arXiv 2503.19206)

First in closed form (octavo.laws.overtraining_theory). Then a small language model of bytes is trained on documentation
for a base number of tokens and up to 32 times as many, each with its own complete decay of the learning rate. Every
model gets noise of fixed strengths on its weights, and is fine-tuned on program code at fixed learning rates.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from octavo.laws.sweeps import Job
from octavo.recipes.overtraining_report import Series, draw, theory
from octavo.recipes.recipe import Findings, Kitchen, Scale

CODE = ("asyncio", "email", "http", "multiprocessing", "unittest", "xml")
"""Packages of Python's library whose sources are the second text: 1.5 MB of program code."""


@dataclass(frozen=True)
class Plan:
    """The runs of a scale.

    Attributes:
        hidden, layers, heads: of the model.
        length: bytes of a window.
        batch: windows a step.
        base: tokens of the shortest run.
        doublings: how often that is doubled.
        seeds: of each run.
        rate: learning rate at the reference width.
        gammas: noise, in terms of each matrix's standard deviation before training.
        relative: noise, in terms of its standard deviation after training.
        draws: of noise.
        rates: of fine-tuning, the same for all models.
        tuning: steps of fine-tuning.
        judged: windows of held-out text.
        code: packages of Python's library whose sources are the second text.
        text: names of folders of octavo to train on; none for the default corpus.
    """

    hidden: int
    layers: int
    heads: int
    length: int
    batch: int
    base: int
    doublings: int
    seeds: int
    rate: float
    gammas: tuple[float, ...]
    relative: tuple[float, ...]
    draws: int
    rates: tuple[float, ...]
    tuning: int
    judged: int
    code: tuple[str, ...]
    text: tuple[str, ...] = ()

    @property
    def tokens(self) -> list[int]:
        """Of each length of training."""
        return [self.base << doubling for doubling in range(self.doublings + 1)]


PLANS = {
    Scale.tiny: Plan(
        hidden=16, layers=1, heads=2, length=32, batch=4, base=640, doublings=1, seeds=2, rate=3e-3,
        gammas=(0.5, 2.0), relative=(0.1, 0.4), draws=2, rates=(1e-3, 1e-2), tuning=3, judged=8,
        code=("json",), text=("recipes",),
    ),
    Scale.default: Plan(
        hidden=32, layers=2, heads=2, length=64, batch=16, base=100_000, doublings=5, seeds=3, rate=5e-3,
        gammas=(1.0, 2.0, 4.0, 8.0), relative=(0.1, 0.2, 0.4, 0.8), draws=8,
        rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), tuning=60, judged=64, code=CODE,
    ),
    Scale.gpu: Plan(
        hidden=256, layers=6, heads=4, length=256, batch=64, base=4_000_000, doublings=5, seeds=3, rate=4e-3,
        gammas=(1.0, 2.0, 4.0, 8.0), relative=(0.1, 0.2, 0.4, 0.8), draws=8,
        rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2), tuning=300, judged=256, code=CODE,
    ),
}  # fmt: skip


def cook(kitchen: Kitchen) -> Findings:
    """Train the series, probe it, and look for the turn."""
    plan = PLANS[kitchen.scale]
    text, code = texts(plan.text, plan.code, kitchen.out / "text", kitchen.progress)
    seeds = [kitchen.seed + number for number in range(plan.seeds)]
    # The longest first, so that no worker is left with one at the end.
    jobs = [
        _job(plan, tokens, seed, kitchen, (len(text.train), len(code.train)))
        for tokens in reversed(plan.tokens)
        for seed in seeds
    ]
    rows = kitchen.sweep(jobs, train_and_probe, "models").rows
    whole = [seed for seed in seeds if sum(row["seed"] == seed for row in rows) == len(plan.tokens)]
    by_run = {(row["seed"], row["tokens"]): row for row in rows}
    series = Series(plan.tokens, plan.gammas, plan.relative, plan.rates, by_run, whole)
    lines = (*theory(), *series.lines()) if whole else theory()
    notes = (
        f"a model of {rows[0]['parameters']:,} parameters on bytes; {plan.base:,} to {plan.tokens[-1]:,} of them, at "
        f"most {plan.tokens[-1] / len(text.train):.2g} epochs of the text; {len(whole)} seeds ({kitchen.seed} and on), "
        f"{plan.draws} draws of noise, the same for all lengths",
        "γ is noise in terms of each matrix's standard deviation before training; relative noise in terms of that of "
        "the trained matrix, which grows",
        "excess: loss at the most tokens above the least loss, with 2 standard errors over seeds. The paper's models "
        "are of 30 M (on 4 to 128 billion tokens) to 1 B parameters",
    )
    return Findings(lines, {"runs": rows, **series.figures()}, lambda figure: draw(figure, series), notes)


def texts(names: Sequence[str], packages: Sequence[str], cache: Path, progress: Any) -> tuple[Any, Any]:
    """What is pretrained on, and what is fine-tuned on, as bytes."""
    import octavo
    from octavo.training.configuration import DataConfig
    from octavo.training.tokenized import tokenize

    inside = tuple(str(Path(octavo.__file__).parent / name) for name in names)
    library = Path(sysconfig.get_paths()["stdlib"])
    folders = tuple(str(library / name) for name in packages)
    found = [
        tokenize(DataConfig(text=each, tokenizer="bytes", held_out=0.05), cache, progress) for each in (inside, folders)
    ]
    return found[0], found[1]


def _job(plan: Plan, tokens: int, seed: int, kitchen: Kitchen, lengths: tuple[int, int]) -> Job:
    return {
        "tokens": tokens,
        "seed": seed,
        "hidden": plan.hidden,
        "layers": plan.layers,
        "heads": plan.heads,
        "length": plan.length,
        "batch": plan.batch,
        "rate": plan.rate,
        "gammas": list(plan.gammas),
        "relative": list(plan.relative),
        "draws": plan.draws,
        "rates": list(plan.rates),
        "tuning": plan.tuning,
        "judged": plan.judged,
        "text": list(plan.text),
        "code": list(plan.code),
        "cache": str((kitchen.out / "text").resolve()),
        "lengths": list(lengths),
        "device": kitchen.device,
    }


def train_and_probe(job: Job) -> dict[str, Any]:
    """Train one model, and measure what noise and fine-tuning do to it."""
    from octavo.base.progress import SILENT
    from octavo.laws.overtraining import finetune_sweep, reference_scales, sensitivity_curve
    from octavo.recipes.language_models import Size, parameter_count, training_config
    from octavo.training import TokenWindows, next_token_loss, train

    text, code = texts(job["text"], job["code"], Path(job["cache"]), SILENT)
    size = Size(job["hidden"], job["layers"], job["heads"])
    length, batch, device = job["length"], job["batch"], job["device"]
    network = size.network(text.vocabulary.size, length, job["seed"])
    before = reference_scales(network)
    steps = max(1, round(job["tokens"] / (batch * length)))
    source = TokenWindows(text.train, length, batch, job["seed"])
    config = training_config(steps, size.learning_rate(job["rate"]), job["seed"], device)
    train(network, next_token_loss, source, config)
    network.eval()
    of_text, of_code = (_held_out(each.held_out, length, job["judged"], device) for each in (text, code))
    draws = range(job["draws"])
    probes = {
        "fixed": sensitivity_curve({job["tokens"]: network}, job["gammas"], draws, of_text, before),
        "relative": sensitivity_curve({job["tokens"]: network}, job["relative"], draws, of_text, reference_scales),
    }
    tuned = finetune_sweep(
        network,
        job["rates"],
        next_token_loss,
        TokenWindows(code.train, length, batch, job["seed"]),
        training_config(job["tuning"], 0.0, job["seed"], device),
        {"task": of_code, "text": of_text},
    )
    after = reference_scales(network)
    matrices = [name for name, scale in before.items() if scale > 0]
    return {
        "parameters": parameter_count(network.config),
        "steps": steps,
        "base": probes["fixed"][0].base,
        "task": of_code(network),
        "growth": float(np.mean([after[name] / before[name] for name in matrices])),
        "noise": {kind: {f"{row.gamma:g}": row.mean for row in rows} for kind, rows in probes.items()},
        "tuned": {f"{rate:g}": losses for rate, losses in tuned.items()},
    }


def _held_out(tokens: np.ndarray, length: int, windows: int, device: str) -> Any:
    """Nats a byte on the first windows of a text."""
    import torch
    import torch.nn.functional as F

    from octavo.training import TokenWindows

    shown = min(windows, (len(tokens) - 1) // length)
    batch = TokenWindows(tokens, length, shown, None).batch(0)["tokens"].to(device)

    def loss(model: Any) -> float:
        with torch.no_grad():
            return float(F.cross_entropy(model(batch[:, :-1]).flatten(0, 1).float(), batch[:, 1:].flatten()))

    return loss
