"""The precision law of 1-Bit Wonder (arXiv 2602.15563): fitted to networks of many sizes, widths and ages.

    L(N, D, P) = A N_eff^(−α) + B D^(−β) + E,   N_eff = N (1 − e^(−P/γ))

Networks of some sizes train at some bits a weight, by k-means and by integers, for several numbers of tokens. Each run
has a whole decay of its learning rate: without one, losses of different seeds differ several times as much. Both laws
are fitted beside the published ones, and each says how a memory is spent best.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from octavo.base.errors import LawError
from octavo.laws.memory_plan import plan_memory
from octavo.laws.precision import PUBLISHED, PrecisionLaw
from octavo.laws.precision_fit import PrecisionFit, fit
from octavo.laws.runs import Run
from octavo.recipes.one_bit import corpus
from octavo.recipes.quantized_models import FULL, KMEANS, LENGTH, UNIFORM, Shape, prepare, train_one
from octavo.recipes.recipe import Findings, Kitchen, Line, Scale, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BITS = (1, 2, 4)
"""Widths beside the 16 bits of what is not quantized."""

MEMORIES = (2_000_000_000, 8_000_000_000, 60_000_000_000)
"""Bytes for which the laws say how many bits are best."""

OPTIMA = {KMEANS: ("4", "1", "1"), UNIFORM: ("4", "2", "1")}
"""What the published curves say for them."""

WIDE = 3.0
"""Ratio of an interval's ends from which on it says nothing."""

NAMES = {KMEANS: "k-means", UNIFORM: "integers"}


@dataclass(frozen=True)
class Plan:
    """How large the recipe is.

    Attributes:
        shapes: the networks.
        steps: of the runs of each network.
        batch: sequences a step.
        rate: of learning.
        seeds: of each run.
        held_out: sequences that networks are judged on.
        resamples: of the bootstrap.
    """

    shapes: tuple[Shape, ...]
    steps: tuple[int, ...]
    batch: int
    rate: float
    seeds: int
    held_out: int
    resamples: int


PLANS = {
    Scale.tiny: Plan((Shape(64, 1, 2, 64), Shape(64, 3, 2, 64)), (4, 8, 16), 4, 3e-3, 1, 16, 10),
    Scale.default: Plan(
        (Shape(64, 1, 2, 64), Shape(64, 1, 2, 192), Shape(64, 2, 2, 192)), (300, 600, 1200), 4, 2e-3, 2, 512, 200
    ),
    Scale.gpu: Plan(
        (Shape(256, 4, 4, 704), Shape(384, 6, 6, 1024), Shape(512, 8, 8, 1408), Shape(768, 10, 12, 2048)),
        (1500, 3000, 6000), 256, 1e-3, 1, 2048, 500,
    ),
}  # fmt: skip


def cook(kitchen: Kitchen) -> Findings:
    """Run the recipe."""
    plan = PLANS[kitchen.scale]
    text, data = corpus(kitchen), kitchen.out / "data"
    prepare(text, data, kitchen.progress)
    methods = [(FULL, 16), *((method, bits) for method in (KMEANS, UNIFORM) for bits in BITS)]
    jobs: list[dict[str, Any]] = [
        {
            "shape": [shape.hidden, shape.layers, shape.heads, shape.inner],
            "method": method,
            "bits": bits,
            "steps": steps,
            "batch": plan.batch,
            "rate": plan.rate,
            "seed": kitchen.seed + seed,
            "moments": [steps],
            "decay": True,
            "held_out": plan.held_out,
            "text": text,
            "data": str(data),
            "device": kitchen.device,
        }
        for seed in range(plan.seeds)
        # The longest first, so that no worker is left with one at the end.
        for shape in reversed(plan.shapes)
        for steps in reversed(plan.steps)
        for method, bits in methods
    ]
    rows = kitchen.sweep(jobs, train_one).rows
    fits: dict[str, PrecisionFit] = {}
    refused: list[str] = []
    for method in (KMEANS, UNIFORM):
        try:
            runs = runs_of(rows, method)
            fits[method] = fit(runs, resamples=plan.resamples, seed=kitchen.seed, progress=kitchen.progress)
        except LawError as error:
            refused.append(f"{NAMES[method]}: {error.problem}")
    lines = [line for method, found in fits.items() for line in (*_constants(method, found), *_memories(method, found))]
    if len(fits) == 2:
        lines.append(_ordered(fits[KMEANS], fits[UNIFORM]))
    notes = (
        f"{len(jobs)} runs: networks of {', '.join(f'{shape.body:,}' for shape in plan.shapes)} weights, trained on "
        f"{', '.join(f'{steps * plan.batch * LENGTH:,}' for steps in plan.steps)} bytes, each with a whole decay of "
        f"the rate; {plan.seeds} seeds from {kitchen.seed} on",
        "nats a byte; N is the body, without the embedding; P the bits of an index, without scales",
        "90 % intervals of a bootstrap over the runs",
        *refused,
        *(f"{NAMES[method]}: {flag}" for method, found in fits.items() for flag in found.flags),
    )
    figures = {"runs": rows, "fits": {method: _described(found) for method, found in fits.items()}}
    return Findings(tuple(lines), figures, lambda figure: _draw(figure, rows, fits, plan), notes)


def runs_of(rows: list[dict[str, Any]], method: str) -> list[Run]:
    """The runs of a method, and those of networks that are not quantized."""
    return [
        Run(row["parameters"], row["tokens"][-1], row["bits"], row["losses"][-1])
        for row in rows
        if row["method"] in (method, FULL)
    ]


def _constants(method: str, found: PrecisionFit) -> list[Line]:
    published, lines = PUBLISHED[method], []
    for name, sign in (("alpha", "α"), ("beta", "β"), ("gamma", "γ")):
        paper, ours = getattr(published, name), getattr(found.law, name)
        low, high = found.intervals.get(name, (float("nan"), float("nan")))
        verdict = Verdict.holds if low <= paper <= high else Verdict.fails
        if not found.intervals or high > WIDE * low:
            verdict = Verdict.undecided
        lines.append(
            Line(f"{sign}, {NAMES[method]}", f"{paper:.2f}", f"{ours:.2f}", f"{low:.2f} … {high:.2f}", verdict)
        )
    return lines


def _memories(method: str, found: PrecisionFit) -> list[Line]:
    lines = []
    for memory, paper in zip(MEMORIES, OPTIMA[method], strict=True):
        best = _best_bits(memory, found.law)
        drawn = [_best_bits(memory, law) for law in found.draws or [found.law]]
        low, high = np.quantile(drawn, (0.05, 0.95), method="nearest")
        quantity = f"best bits in {memory / 1e9:g} GB by our {NAMES[method]} law"
        verdict = Verdict.holds if f"{best:g}" == paper else Verdict.fails
        if low < high and low <= float(paper) <= high:
            verdict = Verdict.undecided
        lines.append(Line(quantity, paper, f"{best:g}", f"{low:g} … {high:g}", verdict))
    return lines


def _best_bits(memory: int, law: PrecisionLaw) -> float:
    return plan_memory(memory, 1e11, law)[0].bits


def _ordered(kmeans: PrecisionFit, integers: PrecisionFit) -> Line:
    """γ of integers, less that of k-means: a smaller one is a larger share of capacity at each width."""
    ours = integers.law.gamma - kmeans.law.gamma
    paper = PUBLISHED[UNIFORM].gamma - PUBLISHED[KMEANS].gamma
    quantity = "γ of integers, less k-means"
    if not (kmeans.draws and integers.draws):
        return Line(quantity, f"{paper:.2f}", f"{ours:+.2f}", "", Verdict.undecided)
    # Resamples are paired: both take the same runs of the networks that are not quantized.
    drawn = [one.gamma - other.gamma for one, other in zip(integers.draws, kmeans.draws, strict=False)]
    low, high = np.quantile(drawn, (0.05, 0.95))
    return Line(quantity, f"{paper:.2f}", f"{ours:+.2f}", f"{low:+.2f} … {high:+.2f}", Verdict.of(low, high))


def _described(found: PrecisionFit) -> dict[str, Any]:
    law = found.law
    constants = {name: getattr(law, name) for name in ("a", "b", "e", "alpha", "beta", "gamma")}
    return {
        **constants, "intervals": found.intervals, "level": found.level, "error": found.error, "runs": found.runs
    }  # fmt: skip


def _draw(figure: Figure, rows: list[dict[str, Any]], fits: dict[str, PrecisionFit], plan: Plan) -> None:
    left, right = figure.subplots(1, 2)
    shades = ("tab:red", "tab:orange", "tab:green", "tab:blue")
    sizes = np.geomspace(min(shape.body for shape in plan.shapes), max(shape.body for shape in plan.shapes), 50)
    for bits, color in zip((*BITS, 16), shades, strict=True):
        longest = [row for row in rows if row["bits"] == bits and row["steps"] == plan.steps[-1]]
        label = f"{bits} bits" if bits > 1 else "1 bit"
        for marks, shown in (("o", (KMEANS, FULL)), ("x", (UNIFORM,))):
            found = [row for row in longest if row["method"] in shown]
            losses = [row["losses"][-1] for row in found]
            named = label if marks == "o" else None
            left.plot([row["parameters"] for row in found], losses, marks, color=color, label=named)
        if KMEANS in fits and longest:
            law, tokens = fits[KMEANS].law, longest[0]["tokens"][-1]
            left.plot(sizes, [law.loss(size, tokens, bits) for size in sizes], color=color)
    left.set(xscale="log", xlabel="weights in the body", ylabel="held-out loss (nats a byte)")
    left.set_title("k-means (dots) with its law, integers (crosses)")
    left.legend()
    bits = np.linspace(0.25, 16, 200)
    laws: list[tuple[str, PrecisionLaw, str, str]] = []
    for method, color in ((KMEANS, "tab:blue"), (UNIFORM, "tab:orange")):
        laws.append((f"{NAMES[method]}, published", PUBLISHED[method], color, ":"))
        if method in fits:
            laws.append((f"{NAMES[method]}, ours", fits[method].law, color, "-"))
    for label, law, color, style in laws:
        right.plot(bits, [law.capacity(each) for each in bits], style, color=color, label=label)
    right.set(
        xscale="log", xlabel="bits a weight", ylabel="share of the capacity, 1 − e^(−P/γ)", title="what bits hold"
    )
    right.legend()
