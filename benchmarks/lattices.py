"""What each part of grouped lattices is worth on layers of a real model, beside scalars and fixed lattices.

Subject: SmolLM2-135M-Instruct, the permuted reference (see benchmarks/quality.py). H are the second moments of a
matrix's inputs on 8 sequences of 512 tokens of docstrings, all tokens alike. The figure is the relative RMS error of
the outputs, sqrt(tr(E H Eᵀ) / tr(W H Wᵀ)), times 2^bits, every stored bit counted, so that formats of different sizes
compare. Rows without feedback know the diagonal of H.

    python benchmarks/lattices.py                    two matrices at 2 and 3 bits; about three minutes on one core
    python benchmarks/lattices.py --matrix 9.mlp     all matrices of layer 9 whose name contains this
    python benchmarks/lattices.py --only feedback    rows whose name contains this
"""

from __future__ import annotations

import argparse
import contextlib
import math
import time
from collections.abc import Callable, Iterable
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from octavo.calibrate.hessian import Moments, layerwise
from octavo.calibrate.text import heldout_text
from octavo.compress.rounding.error_feedback import Elimination, cost, eliminate
from octavo.compress.rounding.layers import quantize_with_feedback
from octavo.formats import Format, Importance, QuantizedTensor
from octavo.formats.lattice import grouped_rounder, learning
from octavo.models import load_language_model
from octavo.models.permute import write_permuted_reference
from texts import cache_folder

DAMPING = 0.01
"""Of H: formats are judged on the text by which errors are fed back, so that it may be believed."""

MATRICES = ("layers.2.self_attn.q_proj", "layers.15.self_attn.o_proj")

Quantize = Callable[[Tensor, Elimination, int], QuantizedTensor]


class Measured(Exception):
    """All inputs that are wanted have been seen."""


def moments(wanted: Iterable[str]) -> dict[str, tuple[Tensor, Elimination]]:
    """Values and H of the matrices whose names contain one of these, by name."""
    source = cache_folder() / "permuted-reference"
    if not source.exists():
        write_permuted_reference("smollm2-135m", source, torch.Generator().manual_seed(0))
    model, tokenizer = load_language_model(source)
    tokens = tokenizer(heldout_text()[:100_000], add_special_tokens=False, verbose=False).input_ids
    sequences = torch.tensor(tokens[: 8 * 512]).view(8, 512)
    parameters = [name for name, _ in model.named_parameters() if name.endswith("_proj.weight")]
    chosen = [name for name in parameters if any(part in name for part in wanted)]
    found: dict[str, tuple[Tensor, Elimination]] = {}

    def keep(name: str, values: Tensor, second: Moments) -> None:
        found[name] = values.float().clone(), eliminate(second.whole, DAMPING)
        if len(found) == len(chosen):
            raise Measured

    with contextlib.suppress(Measured):
        layerwise(model, sequences, {name: torch.ones(sequences.numel()) for name in chosen}, keep)
    return found


def plain(text: str) -> Quantize:
    """Each weight or vector by itself."""

    def quantize(weights: Tensor, elimination: Elimination, bits: int) -> QuantizedTensor:
        known = Importance(torch.ones(len(weights)), elimination.moments.diagonal().contiguous())
        return Format.parse(text.format(b=bits)).quantize(weights, known)

    return quantize


def fed_back(text: str) -> Quantize:
    """With error feedback."""

    def quantize(weights: Tensor, elimination: Elimination, bits: int) -> QuantizedTensor:
        return quantize_with_feedback(Format.parse(text.format(b=bits)), weights, torch.ones(len(weights)), elimination)

    return quantize


def unlearned(mus: tuple[float, ...]) -> Quantize:
    """Grouped lattices whose basis is a multiple of the identity: even grids, companded by the best of some μ."""
    quantize = plain("glvq(d=8)@{b} tensor absmax:fp32")

    def without(weights: Tensor, elimination: Elimination, bits: int) -> QuantizedTensor:
        with mock.patch.multiple(learning, MUS=mus, ROUNDS=0, first_bases=lambda *_: [torch.eye(8)]):
            return quantize(weights, elimination, bits)

    return without


def nearest_plane(quantize: Quantize) -> Quantize:
    """The same with Babai's nearest plane, which keeps one point where others keep several."""

    def without(weights: Tensor, elimination: Elimination, bits: int) -> QuantizedTensor:
        with mock.patch.object(learning, "KEPT", 1), mock.patch.object(grouped_rounder, "KEPT", 1):
            return quantize(weights, elimination, bits)

    return without


ROWS: dict[str, Quantize] = {
    "integers, absmax": plain("int@{b} b64 absmax:bf16"),
    "k-means": plain("lloyd@{b} b64 search:s8"),
    "E8": plain("lattice-e8@{b} b64 search:s8"),
    "even grid a group": unlearned(learning.MUS[:1]),
    "+ companding": unlearned(learning.MUS),
    "+ learned basis, d=8": plain("glvq(d=8)@{b} tensor absmax:fp32"),
    "+ unequal widths": plain("glvq(d=8,widths=unequal)@{b} tensor absmax:fp32"),
    "d=32": plain("glvq(d=32)@{b} tensor absmax:fp32"),
    "row scales, d=8": plain("glvq(d=8)@{b}"),
    "feedback, integers": fed_back("int@{b} b64 search:s8"),
    "feedback, k-means": fed_back("lloyd@{b} b64 search:s8"),
    "feedback, D4": fed_back("lattice-d4@{b} b64 search:s8"),
    "feedback, E8": fed_back("lattice-e8@{b} b64 search:s8"),
    "feedback, d=8": fed_back("glvq(d=8)@{b} tensor absmax:fp32"),
    "feedback, row scales, d=8": fed_back("glvq(d=8)@{b}"),
    "feedback, row scales, nearest plane": nearest_plane(fed_back("glvq(d=8)@{b}")),
    "feedback, row scales, unequal": fed_back("glvq(d=8,widths=unequal)@{b}"),
}
"""What is compared; + adds to the row before."""


def figure(quantize: Quantize, weights: Tensor, elimination: Elimination, bits: int) -> float:
    """Relative RMS error of the outputs times 2^bits."""
    quantized = quantize(weights, elimination, bits)
    lost = cost(quantized.dequantize() - weights, elimination) / cost(weights, elimination)
    return math.sqrt(lost) * 2**quantized.bits_per_weight


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrix", nargs="+", default=MATRICES, help="matrices whose names contain one of these")
    parser.add_argument("--only", default="", help="only rows whose names contain this")
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3])
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = moments(options.matrix)
    short = [name.removeprefix("model.layers.").removesuffix("_proj.weight") for name in found]
    heads = [f"{name}, {bits} bits" for bits in options.bits for name in short]
    table = Table("row", *heads, "seconds")
    for name, quantize in ROWS.items():
        if options.only in name:
            start = time.perf_counter()
            figures = [figure(quantize, *matrix, bits) for bits in options.bits for matrix in found.values()]
            table.add_row(name, *(f"{value:.3f}" for value in figures), f"{time.perf_counter() - start:.1f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
