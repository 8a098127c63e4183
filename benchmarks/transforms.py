"""What transforms do for MXFP4 weights and activations of a real model: KL divergence with and without them.

Subject: SmolLM2-135M-Instruct, the permuted reference (see benchmarks/quality.py). Weights and inputs of all linear
layers of the blocks are rounded to the nearest MXFP4 number (no error feedback), embedding and head are kept. Learned
maps start from the Hadamard transform and see 16 sequences of 512 tokens; evaluation is on 8 others (benchmarks/
texts.py). KL of the reference to the rounded model, nats a token over the full vocabulary; `drift` is the same without
any rounding.

    python benchmarks/transforms.py                      every row; most of an hour on one core
    python benchmarks/transforms.py --only hadamard      rows whose name contains this
    python benchmarks/transforms.py --minutes 2          learn for two minutes a row instead of eight
    python benchmarks/transforms.py --table              print the results again

Results are kept in benchmarks/results/transforms.json and measured again only where they are missing.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from keeping import measure_missing, read_results
from octavo.measure.divergence import compare, summarize
from octavo.models import load_language_model
from octavo.models.permute import write_permuted_reference
from octavo.transforms.activations import activation_format
from octavo.transforms.affine import orthogonal
from octavo.transforms.decoder import decoder_of
from octavo.transforms.fold import Maps
from octavo.transforms.hadamard import hadamard_matrix
from octavo.transforms.learning import Learning, learn, starting_maps
from octavo.transforms.online import Online
from octavo.transforms.rotation import random_hadamard
from octavo.transforms.student import Rounding, Student
from texts import cache_folder, sequences

RESULTS = Path(__file__).parent / "results" / "transforms.json"
FIXED = ("none", "T3 only", "hadamard b32", "hadamard")
LEARNED = {"learned rotation": "rotation", "LATMiX, LU": "lu", "LATMiX, QR": "qr"}
RATE = 1e-3
"""Learning rate of every learned row, for triangles and turns alike."""


class Bench:
    """The reference, its texts and its logits."""

    def __init__(self, evaluation: int) -> None:
        source = cache_folder() / "permuted-reference"
        if not source.exists():
            write_permuted_reference("smollm2-135m", source, torch.Generator().manual_seed(0))
        self.model, tokenizer = load_language_model(source)
        self.model.requires_grad_(False)
        self.decoder = decoder_of(self.model.config.to_dict())
        self.calibration, self.evaluation = sequences(tokenizer, 16, evaluation)
        with torch.inference_mode():
            self.reference = [self.model(row[None], use_cache=False).logits[0] for row in self.evaluation]

    def fixed(self, name: str) -> Maps:
        """The maps of a row that learns nothing."""
        if name == "none":
            return Maps()
        block = 32 if name.endswith("b32") else None
        if name == "T3 only":
            return Maps(inner=Online())
        stream = random_hadamard(self.decoder.hidden, torch.Generator().manual_seed(0), block)
        heads = hadamard_matrix(self.decoder.head, block).expand(self.decoder.kv_heads, -1, -1)
        return Maps(orthogonal(stream), (orthogonal(heads),) * self.decoder.layers, Online(block)).to(torch.float32)

    @torch.inference_mode()
    def divergence(self, maps: Maps, rounding: Rounding) -> tuple[float, float]:
        """KL to the reference, and its standard error over sequences."""
        student = Student(self.model, self.decoder, rounding)
        found = student(self.evaluation, maps)
        forward = summarize(
            compare(expected, logits, row[1:])
            for expected, logits, row in zip(self.reference, found, self.evaluation, strict=True)
        ).forward
        return forward.mean, forward.error

    def row(self, name: str, activations: str, steps: int, minutes: float) -> dict[str, float]:
        """One row's figures."""
        rounding = Rounding(activation_format("mxfp4"), activation_format(activations))
        start, facts = time.perf_counter(), {}
        if name in LEARNED:
            generator = torch.Generator().manual_seed(0)
            maps = starting_maps(self.decoder, LEARNED[name], generator, shifted=LEARNED[name] != "rotation")
            learning = Learning(steps, minutes, RATE, RATE, bfloat16=True)
            learned = learn(self.model, self.decoder, maps, self.calibration, rounding, generator, learning)
            few = max(1, len(learned.losses) // 10)
            facts = {
                "steps": len(learned.losses),
                "first": sum(learned.losses[:few]) / few,
                "last": sum(learned.losses[-few:]) / few,
            }
            torch.save(maps.state_dict(), cache_folder() / f"maps-{LEARNED[name]}-{activations}.pt")
            fixed = maps.maps()
            assert fixed.stream is not None
            facts["condition"] = fixed.stream.condition
        else:
            fixed = self.fixed(name)
        seconds = time.perf_counter() - start
        kl, error = self.divergence(fixed, rounding)
        drift, _ = self.divergence(fixed, Rounding())
        return {"kl": kl, "kl_error": error, "drift": drift, "seconds": seconds, **facts}


def table(results: dict[str, dict[str, float]]) -> Table:
    """The results, best last."""
    out = Table("transform", "KL", "±", "drift", "steps", "seconds", "condition of T1")
    for name, r in sorted(results.items(), key=lambda item: -item[1]["kl"]):
        steps, condition = r.get("steps"), r.get("condition")
        out.add_row(
            name,
            f"{r['kl']:.4f}",
            f"{r['kl_error']:.4f}",
            f"{r['drift']:.5f}",
            "" if steps is None else f"{steps:.0f}",
            f"{r['seconds']:.0f}",
            "" if condition is None else f"{condition:.2f}",
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="only rows whose names contain this")
    parser.add_argument("--activations", default="mxfp4", help="format of the inputs (mxfp8-e4m3 for W4A8)")
    parser.add_argument("--steps", type=int, default=400, help="steps of learning at most")
    parser.add_argument("--minutes", type=float, default=8, help="minutes of learning a row at most")
    parser.add_argument("--evaluation", type=int, default=8, help="evaluation sequences")
    parser.add_argument("--again", action="store_true", help="measure rows that have a result already")
    parser.add_argument("--table", action="store_true", help="print what is known and measure nothing")
    options = parser.parse_args()
    console = Console(width=120)
    if not options.table:
        bench = Bench(options.evaluation)
        label = "W4A4" if options.activations == "mxfp4" else options.activations
        chosen = (
            (f"{name}, {label}", partial(bench.row, name, options.activations, options.steps, options.minutes))
            for name in (*FIXED, *LEARNED)
            if not options.only or options.only in name
        )
        measure_missing(
            RESULTS,
            chosen,
            options.again,
            lambda name, r: console.print(f"{name}: KL {r['kl']:.4f} ± {r['kl_error']:.4f}"),
        )
    console.print(table(read_results(RESULTS)))


if __name__ == "__main__":
    main()
