"""How fast packed weights are multiplied with a few vectors, against reading them and against dense weights.

Every figure is the best of some runs over as many copies of the weight as fill `--spread` MiB, as the layers of a model
do, so that caches hold none of them. Tensors are timed in their resident form (octavo.formats.resident), whose bytes
count; the bandwidth is measured in the same run, by reading a large array. Weights of 128 rows are quantized and
repeated: what they are does not change the time.

    python benchmarks/products.py
    python benchmarks/products.py --shape 8192x8192 --batch 1 --spread 300 --json benchmarks/results/products.json
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from octavo.base.arithmetic import Arithmetic
from octavo.formats import Format
from octavo.formats.product import fused
from octavo.formats.resident import resident
from octavo.formats.tensor import QuantizedTensor
from octavo.kernels import cpu
from octavo.kernels.bandwidth import read_bandwidth

FORMATS = (
    "lloyd@1 b64 absmean:bf16",
    "int(levels=3) b64 absmean:bf16",
    "lloyd@2 b64 absmean:bf16",
    "lloyd@3 b64 absmax:bf16",
    "int@4 b64 absmax:bf16",
    "lloyd@4 b64 absmax:bf16",
    "nf4 b64 absmax:bf16",
    "e2m1 b64 absmax:bf16",
    "mxfp4",
    "int@8 b64 absmax:bf16",
    "lloyd@8 b64 absmax:bf16",
    "trellis@2 channel rms:u8",
    "trellis@3 channel rms:u8",
    "trellis@4 channel rms:u8",
    "columns(trellis@5=64,trellis@4=192,trellis@3) channel rms:u8",
    "grid@3.5 separable ans",
)

SHAPES = ("8192x8192", "576x576", "192x576", "1536x576", "576x1536")
"""A square one, and those of a small language model (SmolLM2-135M)."""

QUANTIZED_ROWS = 128

LARGEST_GRID = 1 << 22
"""Weights of a grid that is coded for this; larger ones take minutes."""

INPUTS: dict[str, tuple[torch.dtype, Arithmetic | Literal["avx2", "portable"]]] = {
    "float32": (torch.float32, "exact"),
    "bfloat16": (torch.bfloat16, "exact"),
    "int8": (torch.float32, "int8"),
    "avx2": (torch.float32, "avx2"),
    "portable": (torch.float32, "portable"),
}
"""What packed weights are multiplied with, and in what; the last two are float32 as lesser processors compute it."""

DENSE = {"dense float32": torch.float32, "dense bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Row:
    """The time of one product of a weight with a batch of vectors, and the speed at which its bytes were read."""

    shape: str
    format: str
    inputs: str
    threads: int
    batch: int
    bits: float
    microseconds: float
    gigabytes: float
    of_bandwidth: float


def main(
    format: Annotated[list[str] | None, typer.Option(help="Formats; repeat for several.")] = None,
    shape: Annotated[list[str] | None, typer.Option(help="ROWSxCOLUMNS; repeat for several.")] = None,
    threads: Annotated[list[int] | None, typer.Option(help="Threads; repeat for several.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Vectors at once; repeat for several.")] = None,
    spread: Annotated[int, typer.Option(help="MiB of copies that a run goes through.")] = 64,
    inputs: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(INPUTS)}; repeat for several.")] = None,
    repeats: int = 10,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here as JSON.")] = None,
) -> None:
    """Time products on this machine and print them beside the memory's bandwidth."""
    console = Console(width=120)
    console.print("C++: " + (cpu.MISSING or cpu.instruction_set()))
    rows = []
    for count in threads or (1, 2):
        torch.set_num_threads(count)
        bandwidth = read_bandwidth(repeats=4 * repeats) / 1e9
        console.print(f"{count} thread(s): reading runs at {bandwidth:.1f} GB/s")
        for side in shape or SHAPES:
            kinds = inputs or ("float32", "bfloat16", "int8")
            found = timed_shape(side, format or FORMATS, batch or (1, 4, 16), kinds, spread << 20, repeats, bandwidth)
            console.print(table(found))
            rows += found
    if json_path is not None:
        json_path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def timed_shape(
    shape: str,
    formats: Sequence[str],
    batches: Sequence[int],
    kinds: Sequence[str],
    spread: int,
    repeats: int,
    bandwidth: float,
) -> list[Row]:
    height, width = (int(side) for side in shape.split("x"))
    generator = torch.Generator().manual_seed(0)
    found = []
    for name, dtype in DENSE.items():
        size = height * width * dtype.itemsize
        weights = [torch.ones(height, width, dtype=dtype) for _ in range(-(-spread // size))]
        for batch in batches:
            inputs = torch.randn(batch, width, generator=generator).to(dtype)
            seconds = best(partial(each, [partial(F.linear, weight=weight) for weight in weights], inputs), repeats)
            kind = str(dtype).removeprefix("torch.")
            found.append(row(shape, name, kind, batch, size, height * width, seconds / len(weights), bandwidth))
    for text in formats:
        quantized = large(text, height, width, generator)
        if quantized is None:
            continue
        size = quantized.stored_bits // 8
        products = [fused(copied(quantized)) for _ in range(-(-spread // size))]
        ready = [product for product in products if product is not None]
        for batch in batches:
            for kind in kinds:
                dtype, arithmetic = INPUTS[kind]
                inputs = torch.randn(batch, width, generator=generator).to(dtype)
                calls = [partial(product, arithmetic=arithmetic) for product in ready]
                seconds = best(partial(each, calls, inputs), repeats) / len(ready)
                found.append(row(shape, text, kind, batch, size, height * width, seconds, bandwidth))
    return found


def each(products: Sequence[Callable[[Tensor], Tensor]], inputs: Tensor) -> None:
    for product in products:
        product(inputs)


def large(text: str, rows: int, columns: int, generator: torch.Generator) -> QuantizedTensor | None:
    """A tensor in a format, the rows of a small one repeated; None where that cannot be done in seconds."""
    parsed = Format.parse(text)
    spread = torch.randn(columns, generator=generator).exp()
    if parsed.code != "fixed":
        if rows * columns > LARGEST_GRID:
            return None
        return resident(parsed.quantize(torch.randn(rows, columns, generator=generator) * spread))
    height = math.gcd(rows, QUANTIZED_ROWS)
    if height * columns % 8:
        height = rows  # codes of the repeated rows would not fill their last byte
    small = resident(parsed.quantize(torch.randn(height, columns, generator=generator) * spread))
    times = rows // height
    parts = {}
    for name, part in small.parts.items():
        by_row = name.startswith("scales") and len(part) == height
        if name.startswith("codes"):
            parts[name] = part.repeat(times) if part.ndim == 1 else part.repeat(1, times)
        else:
            # Narrow floats are repeated as bytes.
            parts[name] = part.view(torch.uint8).repeat(times, 1).view(part.dtype) if by_row else part
    return QuantizedTensor(small.format, (rows, columns), parts)


def copied(quantized: QuantizedTensor) -> QuantizedTensor:
    return QuantizedTensor(quantized.format, quantized.shape, {name: p.clone() for name, p in quantized.parts.items()})


def row(
    shape: str,
    format: str,
    inputs: str,
    batch: int,
    size: int,
    weights: int,
    seconds: float,
    bandwidth: float,
) -> Row:
    speed = size / seconds / 1e9
    return Row(
        shape=shape,
        format=format,
        inputs=inputs,
        threads=torch.get_num_threads(),
        batch=batch,
        bits=8 * size / weights,
        microseconds=1e6 * seconds,
        gigabytes=speed,
        of_bandwidth=speed / bandwidth,
    )


def best(call: Callable[[], object], repeats: int) -> float:
    """Shortest seconds of a call, after one that warms up."""
    call()
    shortest = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


def table(rows: list[Row]) -> Table:
    shown = Table(title=f"products with {rows[0].shape} weights on {rows[0].threads} thread(s)")
    for heading in ("format", "inputs", "batch", "bits", "µs", "GB/s", "of bandwidth"):
        shown.add_column(heading, justify="left" if heading in ("format", "inputs") else "right", no_wrap=True)
    for each in rows:
        figures = f"{each.bits:.2f}", f"{each.microseconds:.1f}", f"{each.gigabytes:.1f}", f"{each.of_bandwidth:.0%}"
        shown.add_row(each.format, each.inputs, str(each.batch), *figures)
    return shown


if __name__ == "__main__":
    typer.run(main)
