"""1-Bit Wonder (arXiv 2602.15563): k-means codebooks against integers, and one bit against more in the same memory.

Two questions, each with several seeds, networks that are compared sharing seed, data and held-out text. Batches are
small, so that a given number of tokens makes many steps and networks come far enough to differ by more than chance:

- at equal parameters, does a codebook of k-means lose less than integers of the same width?
- in the same memory, embedding and scales counted, does a wider network of fewer bits lose less?

All networks see the same tokens, so that the wider ones take more computation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import t as student

from octavo.calibrate.text import default_text
from octavo.checkpoints.durable import write_durably
from octavo.recipes.quantized_models import BYTES, CENTERED, FULL, KMEANS, UNIFORM, Shape, prepare, train_one
from octavo.recipes.recipe import Findings, Kitchen, Line, Scale, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVEL = 0.95
"""Of the intervals."""

EQUAL = ((KMEANS, 1), (UNIFORM, 1), (CENTERED, 1), (KMEANS, 2), (UNIFORM, 2), (KMEANS, 4), (UNIFORM, 4))
"""Methods and bits that are compared at equal parameters."""


@dataclass(frozen=True)
class Plan:
    """How large the recipe is.

    Attributes:
        equal: the network of the first question.
        matched: networks of 16, 4 and 1 bits that take the same memory.
        steps: of each run.
        batch: sequences a step.
        rate: of learning.
        seeds: how many, of the networks that are compared at equal parameters.
        matched_seeds: how many, of those in the same memory, which take longer.
        held_out: sequences that networks are judged on.
    """

    equal: Shape
    matched: dict[int, Shape]
    steps: int
    batch: int
    rate: float
    seeds: int
    matched_seeds: int
    held_out: int


PLANS = {
    Scale.tiny: Plan(
        Shape(64, 1, 2, 64), {16: Shape(64, 1, 2, 64), 4: Shape(64, 3, 2, 64), 1: Shape(64, 8, 2, 64)},
        8, 4, 3e-3, 2, 2, 16,
    ),
    Scale.default: Plan(
        Shape(64, 1, 2, 192), {16: Shape(64, 1, 2, 192), 4: Shape(64, 3, 2, 256), 1: Shape(128, 4, 4, 128)},
        1200, 4, 2e-3, 6, 4, 512,
    ),
    Scale.gpu: Plan(
        Shape(320, 4, 5, 768), {16: Shape(320, 4, 5, 768), 4: Shape(512, 5, 8, 1536), 1: Shape(768, 8, 12, 2048)},
        6000, 256, 1e-3, 3, 3, 2048,
    ),
}  # fmt: skip


def cook(kitchen: Kitchen) -> Findings:
    """Run the recipe."""
    plan = PLANS[kitchen.scale]
    text = corpus(kitchen)
    data = kitchen.out / "data"
    prepare(text, data, kitchen.progress)

    def job(shape: Shape, method: str, bits: int, seed: int) -> dict[str, Any]:
        return {
            "shape": [shape.hidden, shape.layers, shape.heads, shape.inner],
            "method": method,
            "bits": bits,
            "steps": plan.steps,
            "batch": plan.batch,
            "rate": plan.rate,
            "seed": kitchen.seed + seed,
            "moments": [plan.steps],
            "decay": True,
            "held_out": plan.held_out,
            "text": text,
            "data": str(data),
            "device": kitchen.device,
        }

    matched = {bits: (FULL if bits == 16 else KMEANS, bits) for bits in plan.matched}
    jobs: list[dict[str, Any]] = []
    for seed in range(plan.seeds):
        # The longest first, so that no worker is left with one at the end.
        wanted = [(plan.matched[bits], *matched[bits]) for bits in sorted(matched)] if seed < plan.matched_seeds else []
        wanted += [(plan.equal, *each) for each in (*EQUAL, (FULL, 16))]
        jobs += [job(*each, seed) for each in dict.fromkeys(wanted)]
    rows = kitchen.sweep(jobs, train_one).rows

    def losses(shape: Shape, method: str, bits: int) -> dict[int, float]:
        wanted = [shape.hidden, shape.layers, shape.heads, shape.inner], method, bits
        return {row["seed"]: row["losses"][-1] for row in rows if (row["shape"], row["method"], row["bits"]) == wanted}

    equal = {(method, bits): losses(plan.equal, method, bits) for method, bits in (*EQUAL, (FULL, 16))}
    same = {bits: losses(plan.matched[bits], *matched[bits]) for bits in matched}
    lines = [
        _compared(
            f"{name} at {bits} bit{'s' * (bits > 1)}, less k-means", "above 0", equal[other, bits], equal[KMEANS, bits]
        )
        for other, bits, name in (
            (UNIFORM, 1, "signs × mean |w|"),
            (CENTERED, 1, "centered signs × mean |w|"),
            (UNIFORM, 2, "integers −1 … 1"),
            (UNIFORM, 4, "integers −7 … 7"),
        )
    ]
    gaps = {bits: _mean(_paired(equal[UNIFORM, bits], equal[KMEANS, bits])) for bits in (1, 2, 4)}
    largest = max(gaps, key=lambda bits: gaps[bits])
    lines.append(
        Line("bits with the largest gap", "2", str(largest), "", Verdict.holds if largest == 2 else Verdict.fails)
    )
    lines += [
        _compared(f"{high} bits, less {low} in the same memory", "above 0", same[high], same[low])
        for high, low in ((16, 4), (16, 1), (4, 1))
    ]
    full, one = _mean([*equal[FULL, 16].values()]), _mean([*equal[KMEANS, 1].values()])
    if full > one:
        # Whoever loses to one bit at equal parameters is not trained as it should be.
        lines = [replace(line, verdict=Verdict.undecided) if line.quantity.startswith("16") else line for line in lines]
    memory = {bits: plan.matched[bits].bytes(method, bits, BYTES) for bits, (method, _) in matched.items()}
    sizes = ", ".join(f"{bits} bits {plan.matched[bits].body:,} weights in {memory[bits]:,} bytes" for bits in matched)
    tokens = plan.steps * plan.batch * 128
    notes = (
        f"{plan.seeds} seeds from {kitchen.seed} on at equal parameters, {plan.matched_seeds} in the same memory; "
        f"{LEVEL:.0%} intervals of the mean difference, paired by seed",
        f"nats a byte on held-out text; each network saw {tokens:,} bytes, 10 % of the steps before it was quantized",
        f"at equal parameters: {plan.equal.body:,} weights in the body; in the same memory: {sizes}",
        f"at equal parameters 16 bits have {full:.4f} and one bit {one:.4f}"
        + (
            ", so that steps and rate do not suit 16 bits, and what is compared with them decides nothing"
            * (full > one)
        ),
        "the integers at one bit are signs; the paper does not say which it takes",
        "equal tokens are not equal computation: the one-bit network takes "
        f"{plan.matched[1].body / plan.matched[16].body:.1f} times that of the 16-bit one",
    )
    figures = {
        "runs": rows,
        "equal": {f"{method}@{bits}": [*found.values()] for (method, bits), found in equal.items()},
        "matched": {str(bits): [*found.values()] for bits, found in same.items()},
    }
    return Findings(tuple(lines), figures, lambda figure: _draw(figure, equal, same, memory), notes)


def corpus(kitchen: Kitchen) -> list[str]:
    """The text of a recipe: the default corpus, and at the scale `tiny` the topics of Python's help."""
    if kitchen.scale is not Scale.tiny:
        return []
    path: Path = kitchen.out / "text.txt"
    if not path.exists():
        write_durably(path, [default_text().encode()])
    return [str(path)]


def _paired(one: dict[int, float], other: dict[int, float]) -> list[float]:
    """Differences of runs with the same seed."""
    return [one[seed] - other[seed] for seed in one if seed in other]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's interval of a mean; everything where there are fewer than two values."""
    if len(values) < 2:
        return -math.inf, math.inf
    half = float(student.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return _mean(values) - half, _mean(values) + half


def _compared(quantity: str, paper: str, one: dict[int, float], other: dict[int, float]) -> Line:
    differences = _paired(one, other)
    low, high = interval(differences)
    return Line(quantity, paper, f"{_mean(differences):+.4f} nats", f"{low:+.4f} … {high:+.4f}", Verdict.of(low, high))


def _draw(
    figure: Figure,
    equal: dict[tuple[str, int], dict[int, float]],
    same: dict[int, dict[int, float]],
    memory: dict[int, int],
) -> None:
    left, right = figure.subplots(1, 2)
    for method, label in ((KMEANS, "k-means"), (UNIFORM, "integers, signs"), (CENTERED, "centered signs")):
        bits = sorted(bits for other, bits in equal if other == method)
        means = [_mean([*equal[method, each].values()]) for each in bits]
        left.plot(bits, means, "o-", label=label)
        for each in bits:
            left.plot([each] * len(equal[method, each]), [*equal[method, each].values()], ".", color="0.6", zorder=0)
    left.axhline(_mean([*equal[FULL, 16].values()]), color="0.4", linestyle=":", label="bfloat16")
    left.set(xlabel="bits a weight", ylabel="held-out loss (nats a byte)", title="equal parameters", xticks=[1, 2, 4])
    left.legend()
    bits = sorted(same)
    right.plot(range(len(bits)), [_mean([*same[each].values()]) for each in bits], "o-")
    for place, each in enumerate(bits):
        right.plot([place] * len(same[each]), [*same[each].values()], ".", color="0.6", zorder=0)
    labels = [f"{each}\n{memory[each] / 1000:.0f} kB" for each in bits]
    right.set(xlabel="bits a weight", ylabel="held-out loss (nats a byte)", title="the same memory")
    right.set_xticks(range(len(bits)), labels)
