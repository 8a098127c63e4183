"""What error feedback gains on text that it was not calibrated on, and what damping has to do with it.

Inputs of three layers of the permuted reference (see benchmarks/quality.py): errors are fed back by the moments of 16
calibration sequences of 512 tokens and judged by those of 16 others of the same four kinds of text. The figure is the
moment-weighted squared error, relative to that of zeros, times 4^bits: what a format loses whatever its size. Weights
go to a grid of 3 bits with steps by (conditional) importance. The file that is written holds all figures.

    python benchmarks/feedback.py                 about five minutes on two cores
    python benchmarks/feedback.py --layers 3 --sequences 8
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from math import exp, log
from pathlib import Path
from statistics import mean

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from octavo.base.progress import SILENT
from octavo.calibrate.hessian import Moments, layerwise
from octavo.compress.rounding.damping import damping_for
from octavo.compress.rounding.error_feedback import by_energy, cost, eliminate, feed_back
from octavo.compress.sensitivity import measure
from octavo.formats import Format, Importance
from octavo.models import load_language_model
from octavo.models.permute import write_permuted_reference
from texts import cache_folder, sequences

FORMAT = "grid@3.0 separable ans"
DAMPINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
RESULTS = Path(__file__).parent / "results" / "feedback.json"


def moments_of(model: nn.Module, rows: Tensor, strengths: Mapping[str, Tensor]) -> dict[str, Moments]:
    """Moments of the inputs of the matrices that have strengths, the model as it is."""
    found: dict[str, Moments] = {}
    layerwise(model, rows, strengths, lambda name, _, moments: found.update({name: moments}))
    return found


def losses(weights: Tensor, row: Tensor, seen: Moments, other: Tensor) -> dict[str, float]:
    """The figure of each way of rounding one matrix."""
    judge = eliminate(other, 0.0)
    whole = cost(weights, judge, row)

    def rounded(column: Tensor, damping: float | None, order: Tensor | None = None) -> float:
        elimination = None if damping is None else eliminate(seen.whole, damping, order)
        importance = Importance(row, column if elimination is None else elimination.conditional)
        rounder = Format.parse(FORMAT).settle(weights, importance)
        quantized = rounder.quantize(weights if elimination is None else feed_back(weights, rounder, elimination))
        lost = cost(quantized.dequantize() - weights, judge, row)
        return lost / whole * 4**quantized.bits_per_weight

    column, chosen = seen.whole.diagonal(), damping_for(seen)
    found = {"nearest": rounded(column, None)}
    found |= {f"damping {damping}": rounded(column, damping) for damping in DAMPINGS}
    found["damping chosen"] = rounded(column, chosen)
    found["chosen, strongest first"] = rounded(column, chosen, by_energy(seen.whole))
    return {**found, "chosen": chosen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 15, 26])
    parser.add_argument("--sequences", type=int, default=16, help="calibration sequences, and as many others")
    options = parser.parse_args()
    source = cache_folder() / "permuted-reference"
    if not source.exists():
        write_permuted_reference("smollm2-135m", source, torch.Generator().manual_seed(0))
    model, tokenizer = load_language_model(source)
    calibration, other = sequences(tokenizer, options.sequences, options.sequences)
    names = [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(f"layers.{layer}." in name for layer in options.layers)
    ]
    known = [measure(model, rows, torch.Generator().manual_seed(0), SILENT) for rows in (calibration, other)]
    seen, judged = (
        moments_of(model, rows, {name: found.strengths[name] for name in names})
        for rows, found in zip((calibration, other), known, strict=True)
    )
    parameters = dict(model.named_parameters())
    results = {
        name: losses(parameters[name].detach(), known[0].importance[name].row, seen[name], judged[name].whole)
        for name in track(names, "rounding", console=Console(stderr=True))
    }
    RESULTS.write_text(json.dumps(results, indent=1))
    heads = sorted({name.split(".")[-2] for name in names})
    table = Table("rounding", *heads, "geometric mean")
    for way in next(iter(results.values())):
        if way != "chosen":
            kinds = [[r[way] for n, r in results.items() if n.split(".")[-2] == head] for head in heads]
            every = exp(mean(log(found[way]) for found in results.values()))
            table.add_row(way, *(f"{exp(mean(map(log, kind))):.3f}" for kind in kinds), f"{every:.3f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
