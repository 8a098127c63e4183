"""What each format does to a real model: KL divergence against bits, ours and other libraries' in one run.

Subject: SmolLM2-135M-Instruct, the *permuted reference* (the carried weights lie on a 4-bit grid; a permutation that
changes no logit takes them off it). The linear layers of the blocks are quantized, embedding and head are kept. KL is
of the reference to the quantized model, nats per token over the full vocabulary, on 8 sequences of 512 tokens of four
kinds (benchmarks/texts.py); calibration, ours and the peers', sees other passages of the same. Bits count everything.
Bytes are those of the safetensors files of the whole model, float32 but for its linear layers; where none were written,
as for peers, they follow from the bits.

    python benchmarks/quality.py                     every section; about two hours on two cores
    python benchmarks/quality.py --section stored    ours, entropy coded
    python benchmarks/quality.py --section peers     other libraries
    python benchmarks/quality.py --table             print the table again

Sections: stored, resident, free (calibration-free), peers, claim (the families of formats at 3, 4 and 5 bits). Results
are kept in benchmarks/results/quality.json and measured again only where they are missing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from keeping import Result, kept, read_results
from linears import Linears, Row, Stored
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
from octavo.measure.divergence import compare, summarize
from octavo.models import load_language_model
from octavo.models.permute import write_permuted_reference
from peers import FILES, PEERS, llama_cpp_file
from rows import benchmark
from texts import cache_folder, sequences

RESULTS = Path(__file__).parent / "results" / "quality.json"
LINEARS = ["*_proj.weight"]
NORMS = ["*norm.weight"]
SECTIONS = ("stored", "resident", "free", "peers", "claim")


class Bench:
    """The reference, its texts and its logits; a model whose weights are replaced row by row."""

    def __init__(self, calibration: int, evaluation: int) -> None:
        self.source = cache_folder() / "permuted-reference"
        if not self.source.exists():
            write_permuted_reference("smollm2-135m", self.source, torch.Generator().manual_seed(0))
        self.model, self.tokenizer = load_language_model(self.source)
        self.calibration, self.evaluation = sequences(self.tokenizer, calibration, evaluation)
        self.linears = Linears(self.source, self.model, LINEARS, NORMS, head="lm_head")
        self.reference = [self.logits(row) for row in self.evaluation]

    @torch.inference_mode()
    def logits(self, row: Tensor) -> Tensor:
        return self.model(row[None], use_cache=False).logits[0]

    def sensitivity(self, effort: str) -> Sensitivity:
        """Our calibration, error feedback's included, kept beside the texts: it takes minutes.

        An effort that takes more text takes more of the same.
        """
        self.linears.restore()
        rows, _ = sequences(self.tokenizer, EFFORTS[effort].text * len(self.calibration), len(self.evaluation))

        def calibrated() -> Sensitivity:
            found = measure(self.model, rows, torch.Generator().manual_seed(0))
            return with_conditional_importance(self.source, found, "cpu", SILENT)

        return kept(cache_folder() / f"calibrated-{len(rows)}.pt", calibrated)

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """llama.cpp's importance matrix."""
        return self.linears.mean_squared_inputs(lambda: [self.logits(row) for row in self.calibration])

    def result(self, row: Row) -> Result:
        """Bits, KL with its standard error, perplexity, squared error and seconds of one row."""
        return self.linears.result(row, self.judged)

    def judged(self) -> Result:
        found = [
            compare(reference, self.logits(tokens), tokens[1:])
            for tokens, reference in zip(self.evaluation, self.reference, strict=True)
        ]
        summary = summarize(found)
        return {
            "kl": summary.forward.mean,
            "kl_error": summary.forward.error,
            "perplexity": summary.perplexity,
            "reference_perplexity": summary.reference_perplexity,
        }

    def compressed(self, bits: float, effort: str, budget_of: BudgetOf = "file") -> Stored:
        known = Sensitivity({}) if effort == "fast" else self.sensitivity(effort)
        return self.linears.compressed(bits, effort, budget_of, known)

    def plain(self, text: str) -> Stored:
        """Quantize to one format, uncalibrated."""
        subject = self._subject()
        return self._follow(subject, fixed_format_plan(subject, text))

    def _subject(self) -> Subject:
        checkpoint = open_checkpoint(self.source)
        return Subject(checkpoint, select(checkpoint, LINEARS, NORMS), Sensitivity({}), default_jobs(), SILENT)

    def _follow(self, subject: Subject, plan: Plan) -> Stored:
        """Quantize; the bits of all parts as stored."""
        formats = {entry.name: Format.parse(entry.format) for entry in plan.entries}

        def quantized(name: str) -> tuple[str, int, Tensor]:
            found = formats[name].quantize(*subject.read(name))
            return name, found.stored_bits, found.dequantize()

        total = 0
        for name, bits, values in subject.map(quantized, "quantizing"):
            total += bits
            self.linears.put(name, values)
        return Stored(total / self.linears.numel)

    def file(self, mixture: str) -> Stored:
        tensors, bits = llama_cpp_file(mixture, self.source, list(self.linears.original))
        for name, values in tensors.items():
            self.linears.put(name, values)
        return Stored(bits)

    def peer(self, name: str) -> Stored:
        return self.linears.peer(name, self.inputs if PEERS[name].calibrated else None)

    def rows(self, section: str) -> Iterator[tuple[str, Row]]:
        """Names and rows of a section."""
        if section == "stored":
            for effort in ("best", "balanced"):
                for bits in (4.0, 3.0, 2.5, 2.0, 1.5):
                    yield f"octavo {effort}, {bits} bits stored", partial(self.compressed, bits, effort)
        if section == "resident":
            for bits in (4.0, 3.0, 2.5):
                yield f"octavo best, {bits} bits resident", partial(self.compressed, bits, "best", "memory")
            for bits in (4.0, 3.0, 2.5):
                yield f"octavo balanced, {bits} bits resident", partial(self.compressed, bits, "balanced", "memory")
        if section == "free":
            for bits in (5.5, 4.5, 4.0, 3.0, 2.0):
                yield f"octavo fast, {bits} bits stored", partial(self.compressed, bits, "fast")
            for bits in (5.5, 4.5, 4.125, 3.4375, 2.625):
                yield f"octavo fast, {bits} bits resident", partial(self.compressed, bits, "fast", "memory")
        if section == "peers":
            for name, peer in PEERS.items():
                if peer.available:
                    yield name, partial(self.peer, name)
            for mixture in FILES if importlib.util.find_spec("llama_cpp") else ():
                yield f"llama.cpp {mixture} file", partial(self.file, mixture)
        if section == "claim":
            for bits in (3, 4, 5):
                for name, text in families(bits).items():
                    yield f"claim {name} {bits}", partial(self.plain, text)


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


def claim(results: Mapping[str, Result]) -> Table:
    """KL times 2^(2 bits), averaged over 3 to 5 bits: flat in bits for an efficient format."""
    out = Table("family", *(f"KL at {bits} bits + scales" for bits in (3, 4, 5)), "mean of KL·2^(2b)")
    for name in families(4):
        found = [results.get(f"claim {name} {bits}") for bits in (3, 4, 5)]
        if all(found):
            mean = sum(r["kl"] * 4 ** r["bits"] for r in found if r) / 3
            out.add_row(name, *(f"{r['kl']:.4f} ({r['bits']:.2f})" for r in found if r), f"{mean:.2f}")
    return out


if __name__ == "__main__":
    benchmark(__doc__, RESULTS, SECTIONS, (16, 8), Bench)
    Console(width=120).print(claim(read_results(RESULTS)))
