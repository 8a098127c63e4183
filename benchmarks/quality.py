"""What each format does to a real model: KL divergence against bits, ours and other libraries' in one run.

Subject: SmolLM2-135M-Instruct, the *permuted reference* (the carried weights lie on a 4-bit grid; a permutation that
changes no logit takes them off it). The linear layers of the blocks are quantized, embedding and head are kept. KL is
of the reference to the quantized model, nats per token over the full vocabulary, on 8 sequences of 512 tokens of four
kinds (benchmarks/texts.py); calibration, ours and the peers', sees other passages of the same. Bits count everything.

    python benchmarks/quality.py                     every section; about an hour on two cores
    python benchmarks/quality.py --section stored    ours, entropy coded
    python benchmarks/quality.py --section peers     other libraries
    python benchmarks/quality.py --table             print the table again

Sections: stored, resident, free (calibration-free), peers, claim (the families of formats at 3, 4 and 5 bits). Results
are kept in benchmarks/results/quality.json and measured again only where they are missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import octavo
from keeping import measure_missing, read_results
from octavo.base.progress import SILENT
from octavo.checkpoints import open_checkpoint
from octavo.compress import Plan
from octavo.compress.effort import EFFORTS
from octavo.compress.plan import BudgetOf
from octavo.compress.planning import Subject, default_jobs, fixed_format_plan
from octavo.compress.rounding.layers import with_conditional_importance
from octavo.compress.selection import select
from octavo.compress.sensitivity import Sensitivity, measure
from octavo.formats import Format
from octavo.hub.stored import open_stored
from octavo.measure.divergence import SequenceDivergence, compare, summarize
from octavo.models import load_language_model
from octavo.models.permute import write_permuted_reference
from peers import FILES, PEERS, llama_cpp_file
from texts import cache_folder, sequences

RESULTS = Path(__file__).parent / "results" / "quality.json"
LINEARS = ["*_proj.weight"]
NORMS = ["*norm.weight"]
SECTIONS = ("stored", "resident", "free", "peers", "claim")

Row = Callable[[], float]
"""Quantizes the model in place and returns bits per weight."""


class Bench:
    """The reference, its texts and its logits; a model whose weights are replaced row by row."""

    def __init__(self, calibration: int, evaluation: int) -> None:
        self.source = cache_folder() / "permuted-reference"
        if not self.source.exists():
            write_permuted_reference("smollm2-135m", self.source, torch.Generator().manual_seed(0))
        self.model, self.tokenizer = load_language_model(self.source)
        self.calibration, self.evaluation = sequences(self.tokenizer, calibration, evaluation)
        self.linears = {
            f"{name}.weight": module
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear) and name != "lm_head"
        }
        self.original = {name: module.weight.detach().clone() for name, module in self.linears.items()}
        self.numel = sum(weight.numel() for weight in self.original.values())
        self.reference = [self.logits(row) for row in self.evaluation]
        self._sensitivity: dict[str, Sensitivity] = {}
        self._inputs: dict[str, Tensor] | None = None

    @torch.inference_mode()
    def logits(self, row: Tensor) -> Tensor:
        return self.model(row[None], use_cache=False).logits[0]

    def sensitivity(self, effort: str) -> Sensitivity:
        """Our calibration, kept beside the texts: it takes minutes. Those who take more text take more of the same."""
        if effort not in self._sensitivity:
            rows, _ = sequences(self.tokenizer, EFFORTS[effort].text * len(self.calibration), len(self.evaluation))
            path = cache_folder() / f"known-{len(rows)}.pt"
            if path.exists():
                self._sensitivity[effort] = torch.load(path, weights_only=False)
            else:
                self.restore()
                known = measure(self.model, rows, torch.Generator().manual_seed(0), SILENT)
                self._sensitivity[effort] = with_conditional_importance(self.source, known, "cpu", SILENT)
                torch.save(self._sensitivity[effort], path)
        return self._sensitivity[effort]

    @property
    def inputs(self) -> dict[str, Tensor]:
        """llama.cpp's importance matrix: the mean squared input of every column."""
        if self._inputs is None:
            self.restore()
            sums = {name: torch.zeros(module.in_features) for name, module in self.linears.items()}

            def count(_: nn.Module, args: tuple[Tensor], name: str) -> None:
                sums[name].add_(args[0].square().flatten(0, -2).sum(0))

            hooks = [
                module.register_forward_pre_hook(partial(count, name=name)) for name, module in self.linears.items()
            ]
            for row in self.calibration:
                self.logits(row)
            for hook in hooks:
                hook.remove()
            self._inputs = {name: total / self.calibration.numel() for name, total in sums.items()}
        return self._inputs

    def restore(self) -> None:
        for name, weight in self.original.items():
            self.linears[name].weight.data.copy_(weight)

    def result(self, row: Row) -> dict[str, float]:
        """Bits, KL with its standard error, perplexity, squared error and seconds of one row."""
        start = time.perf_counter()
        bits = row()
        seconds = time.perf_counter() - start
        wrong = sum(float((m.weight - self.original[n]).square().sum()) for n, m in self.linears.items())
        power = sum(float(weight.square().sum()) for weight in self.original.values())
        found: list[SequenceDivergence] = []
        for tokens, reference in zip(self.evaluation, self.reference, strict=True):
            found.append(compare(reference, self.logits(tokens), tokens[1:]))
        summary = summarize(found)
        return {
            "bits": bits,
            "kl": summary.forward.mean,
            "kl_error": summary.forward.error,
            "perplexity": summary.perplexity,
            "reference_perplexity": summary.reference_perplexity,
            "relative_squared_error": wrong / power,
            "seconds": seconds,
        }

    def compressed(self, bits: float, effort: str, budget_of: BudgetOf = "file") -> float:
        """Compress to a directory, as a user would, and take its weights; the bits of all parts as stored."""
        known = Sensitivity({}) if effort == "fast" else self.sensitivity(effort)
        with tempfile.TemporaryDirectory() as folder:
            result = octavo.compress(
                self.source,
                Path(folder) / "out",
                bits=bits,
                budget_of=budget_of,
                effort=effort,
                sensitivity=known,
                include=LINEARS,
                exclude=NORMS,
            )
            written = open_stored(result.out)
            total = 0
            for name in written.entries:
                found = written.quantized(name)
                assert found is not None
                total += found.stored_bits
                self.linears[name].weight.data.copy_(found.dequantize())
        return total / self.numel

    def plain(self, text: str) -> float:
        """Quantize to one format, uncalibrated."""
        subject = self._subject()
        return self._follow(subject, fixed_format_plan(subject, text))

    def _subject(self) -> Subject:
        checkpoint = open_checkpoint(self.source)
        return Subject(checkpoint, select(checkpoint, LINEARS, NORMS), Sensitivity({}), default_jobs(), SILENT)

    def _follow(self, subject: Subject, plan: Plan) -> float:
        """Quantize; the bits of all parts as stored."""
        formats = {entry.name: Format.parse(entry.format) for entry in plan.entries}

        def quantized(name: str) -> tuple[str, int, Tensor]:
            found = formats[name].quantize(*subject.read(name))
            return name, found.stored_bits, found.dequantize()

        total = 0
        for name, bits, values in subject.map(quantized, "quantizing"):
            total += bits
            self.linears[name].weight.data.copy_(values)
        return total / self.numel

    def file(self, mixture: str) -> float:
        tensors, bits = llama_cpp_file(mixture, self.source, list(self.linears))
        for name, values in tensors.items():
            self.linears[name].weight.data.copy_(values)
        return bits

    def peer(self, name: str) -> float:
        total = 0.0
        for tensor, module in self.linears.items():
            column = self.inputs[tensor] if PEERS[name].calibrated else None
            dequantized, bits = PEERS[name](self.original[tensor], column)
            module.weight.data.copy_(dequantized)
            total += bits * dequantized.numel()
        return total / self.numel


def rows(bench: Bench, section: str) -> Iterator[tuple[str, Row]]:
    """Names and rows of a section."""
    if section == "stored":
        for effort in ("best", "balanced"):
            for bits in (4.0, 3.0, 2.5, 2.0, 1.5):
                yield f"octavo {effort}, {bits} bits stored", lambda b=bits, e=effort: bench.compressed(b, e)
    if section == "resident":
        for bits in (4.0, 3.0, 2.5):
            yield f"octavo best, {bits} bits resident", lambda b=bits: bench.compressed(b, "best", "memory")
        for bits in (4.0, 3.0, 2.5, 5.5, 4.5, 3.4375, 2.625, 2.0):
            yield f"octavo balanced, {bits} bits resident", lambda b=bits: bench.compressed(b, "balanced", "memory")
    if section == "free":
        for bits in (5.5, 4.5, 4.0, 3.0, 2.0):
            yield f"octavo fast, {bits} bits stored", lambda b=bits: bench.compressed(b, "fast")
        for bits in (5.5, 4.5, 4.125, 4.0, 3.4375, 2.625):
            yield f"octavo fast, {bits} bits resident", lambda b=bits: bench.compressed(b, "fast", "memory")
    if section == "peers":
        for name, peer in PEERS.items():
            if peer.available:
                yield name, lambda n=name: bench.peer(n)
        for mixture in FILES if importlib.util.find_spec("llama_cpp") else ():
            yield f"llama.cpp {mixture} file", lambda m=mixture: bench.file(m)
    if section == "claim":
        for bits in (3, 4, 5):
            for name, text in families(bits).items():
                yield f"claim {name} {bits}", lambda t=text: bench.plain(t)


def families(bits: int) -> dict[str, str]:
    """Formats of one size, all in blocks of 64 with bfloat16 scales but the last, which spends as much in all.

    Beyond 4 bits NF4's and E2M1's rules are continued: equal occupancy of a normal density, and floats of two exponent
    bits (one at 3 bits).
    """
    quantiles = "nf4" if bits == 4 else f"cbrt-normal(alpha=1,variant=asymmetric)@{bits}"
    floats = {3: "e1m1", 4: "e2m1", 5: "e2m2"}[bits]
    return {
        "cube-root Student-t": f"cbrt-t(df=fit)@{bits} b64 absmax:bf16",
        "cube-root Student-t, asymmetric": f"cbrt-t(df=fit,variant=asymmetric)@{bits} b64 absmax:bf16",
        "cube-root Student-t, signmax": f"cbrt-t(df=fit)@{bits} b64 signmax:bf16",
        "normal quantiles (NF4)": f"{quantiles} b64 absmax:bf16",
        "floats (E2M1)": f"{floats} b64 absmax:bf16",
        "entropy-coded uniform grid": f"grid@{bits + 0.25} channel rms:bf16 ans",
    }


def table(results: dict[str, dict[str, float]]) -> Table:
    """The results, by bits."""
    out = Table("format", "bits/weight", "KL", "±", "perplexity", "relative squared error", "seconds")
    for name, r in sorted(results.items(), key=lambda item: -item[1]["bits"]):
        if not name.startswith("claim"):
            out.add_row(
                name,
                f"{r['bits']:.3f}",
                f"{r['kl']:.4f}",
                f"{r['kl_error']:.4f}",
                f"{r['perplexity']:.2f}",
                f"{r['relative_squared_error']:.5f}",
                f"{r['seconds']:.0f}",
            )
    return out


def claim(results: dict[str, dict[str, float]]) -> Table:
    """KL times 2^(2 bits), averaged over 3 to 5 bits: flat in bits for an efficient format."""
    out = Table("family", *(f"KL at {bits} bits + scales" for bits in (3, 4, 5)), "mean of KL·2^(2b)")
    for name in families(4):
        found = [results.get(f"claim {name} {bits}") for bits in (3, 4, 5)]
        if all(found):
            mean = sum(r["kl"] * 4 ** r["bits"] for r in found if r) / 3
            out.add_row(name, *(f"{r['kl']:.4f} ({r['bits']:.2f})" for r in found if r), f"{mean:.2f}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", choices=SECTIONS, action="append")
    parser.add_argument("--only", help="only rows whose names contain this")
    parser.add_argument("--calibration", type=int, default=16, help="calibration sequences")
    parser.add_argument("--evaluation", type=int, default=8, help="evaluation sequences")
    parser.add_argument("--again", action="store_true", help="measure rows that have a result already")
    parser.add_argument("--table", action="store_true", help="print what is known and measure nothing")
    options = parser.parse_args()
    console = Console(width=120)
    if not options.table:
        bench = Bench(options.calibration, options.evaluation)
        chosen = (
            (name, partial(bench.result, row))
            for section in options.section or SECTIONS
            for name, row in rows(bench, section)
            if not options.only or options.only in name
        )
        measure_missing(
            RESULTS,
            chosen,
            options.again,
            lambda name, r: console.print(f"{name}: {r['bits']:.3f} bits, KL {r['kl']:.4f}"),
        )
    results = read_results(RESULTS)
    console.print(table(results))
    console.print(claim(results))


if __name__ == "__main__":
    main()
