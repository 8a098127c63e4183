"""How fast a GPU multiplies packed weights, against dense weights in bfloat16 in the same run.

A figure is the median over replays of a CUDA graph that multiplies by as many copies of the weight as fill four times
the L2 cache, as the layers of a model do, divided by their number; before each replay the cache is filled with
something else. The dense product is timed in the same way. Weights of 128 rows are quantized and repeated: what they
are does not change the time. Needs a GPU with CUDA, and says so where there is none.

    python benchmarks/cuda_products.py
    python benchmarks/cuda_products.py --shape 8192x8192 --batch 1 --json benchmarks/results/cuda_products.json
    python benchmarks/cuda_products.py --tune

`--tune` first measures in which pieces each product is best cut on this device, and writes that into the package
(src/octavo/kernels/tuned), where all later products find it.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from octavo.formats.product import fused
from octavo.formats.tensor import QuantizedTensor
from octavo.kernels import tuning
from octavo.kernels.product import CodesPart, Product, ShiftPart
from octavo.kernels.tuning import Cut, Problem
from products import large

FORMATS = (
    "lloyd@1 b64 absmean:bf16",
    "int(levels=3) b64 absmean:bf16",
    "int@2 b64 absmean:bf16",
    "lloyd@2 b64 absmean:bf16",
    "int@3 b64 absmax:bf16",
    "int@4 b64 absmax:bf16",
    "nf4 b64 absmax:bf16",
    "mxfp4",
    "int@8 b64 absmax:bf16",
    "trellis@2 channel rms:u8",
)

BATCHES = (1, 2, 4, 16, 64, 512)

WANTED = {
    ("int@4 b64 absmax:bf16", 1): 3.6,
    ("int@2 b64 absmean:bf16", 1): 6.0,
    ("lloyd@1 b64 absmean:bf16", 1): 9.0,
    ("int@4 b64 absmax:bf16", 16): 2.5,
}
"""Times as fast as the dense product that 8192x8192 weights are to be."""

CACHES = 4
"""Copies of a weight take so many times the L2 cache."""


@dataclass(frozen=True)
class Row:
    """The time of one product, beside the dense one.

    Attributes:
        microseconds, dense: medians.
        spread: between the quartiles, of the median.
        gigabytes: read a second, of the stored weight.
        speedup: over the dense product.
        wanted: the same, as it is to be; None where nothing is said.
    """

    shape: str
    format: str
    batch: int
    bits: float
    microseconds: float
    spread: float
    dense: float
    gigabytes: float
    speedup: float
    wanted: float | None


def main(
    format: Annotated[list[str] | None, typer.Option(help="Formats; repeat for several.")] = None,
    shape: Annotated[list[str] | None, typer.Option(help="ROWSxCOLUMNS; repeat for several.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Vectors at once; repeat for several.")] = None,
    tune: Annotated[bool, typer.Option(help="First find the best cuts for this device.")] = False,
    repeats: int = 30,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here as JSON.")] = None,
) -> None:
    """Time products on this machine's GPU."""
    console = Console(width=140)
    missing = obstacle()
    if missing is not None:
        console.print(f"Nothing was timed: {missing}.")
        raise typer.Exit(2)
    name = torch.cuda.get_device_name()
    console.print(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    rows = []
    for side in shape or ("8192x8192",):
        found = list(timed_shape(side, format or FORMATS, batch or BATCHES, tune, repeats, console))
        console.print(table(found))
        rows += found
    if json_path is not None:
        about = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "tuned": tune}
        json_path.write_text(json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


def obstacle() -> str | None:
    """Why nothing can be timed here; None if it can."""
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no GPU with CUDA on this machine"
    if find_spec("triton") is None:
        return "triton is not installed (pip install 'octavo[gpu]')"
    return None


def timed_shape(
    shape: str, formats: Sequence[str], batches: Sequence[int], tune: bool, repeats: int, console: Console
) -> Iterator[Row]:
    height, width = (int(side) for side in shape.split("x"))
    generator = torch.Generator().manual_seed(0)
    inputs = {batch: torch.randn(batch, width, generator=generator).bfloat16().cuda() for batch in batches}
    weights = [
        torch.ones(height, width, dtype=torch.bfloat16, device="cuda") for _ in range(copies(2 * height * width))
    ]
    dense = {
        batch: timed([partial(F.linear, given, weight) for weight in weights], repeats)[0]
        for batch, given in inputs.items()
    }
    del weights
    for text in formats:
        quantized = large(text, height, width, generator)
        assert quantized is not None
        size = quantized.stored_bits // 8
        products = [product_of(quantized) for _ in range(copies(size))]
        for batch, given in inputs.items():
            if tune:
                tune_product(products, given, console)
            microseconds, spread = timed([partial(product, given) for product in products], repeats)
            yield Row(
                shape=shape,
                format=text,
                batch=batch,
                bits=8 * size / (height * width),
                microseconds=microseconds,
                spread=spread,
                dense=dense[batch],
                gigabytes=size / microseconds / 1e3,
                speedup=dense[batch] / microseconds,
                wanted=WANTED.get((text, batch)) if shape == "8192x8192" else None,
            )


def copies(size: int) -> int:
    """How many weights of so many bytes no cache holds."""
    return max(2, -(-CACHES * cache_size() // size))


def cache_size() -> int:
    return torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size


def product_of(quantized: QuantizedTensor) -> Product:
    """A product with a copy of a tensor on the GPU."""
    parts = {name: part.cuda() for name, part in quantized.parts.items()}
    product = fused(QuantizedTensor(quantized.format, quantized.shape, parts))
    assert product is not None
    return product


def timed(calls: Sequence[Callable[[], Tensor]], repeats: int) -> tuple[float, float]:
    """Microseconds of a call, the median over replays of a graph of all, and the quartiles' distance over it."""
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    for call in calls:
        call()  # what a product learns from its tensors, it learns before it is captured
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    other = torch.empty(2 * cache_size(), dtype=torch.uint8, device="cuda")
    found = []
    for _ in range(repeats + 3):
        other.zero_()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        found.append(1e3 * start.elapsed_time(end) / len(calls))
    first, middle, last = statistics.quantiles(found[3:], n=4)
    return middle, (last - first) / middle


def tune_product(products: Sequence[Product], inputs: Tensor, console: Console) -> None:
    """Try cuts of a product of one part, and write down the fastest."""
    problem = problem_of(products[0], inputs)
    if problem is None:
        return
    name = torch.cuda.get_device_name()
    known = tuning.measurements(name)
    times: dict[Cut, float] = {}
    for cut in cuts(problem):
        known[problem] = cut
        try:
            times[cut] = timed([partial(product, inputs) for product in products], 10)[0]
        except Exception as error:  # a cut that takes more than the device has is refused when it is compiled
            console.print(f"{cut}: {type(error).__name__}", highlight=False)
    known.pop(problem, None)
    if times:
        known[problem] = min(times, key=lambda cut: times[cut])
        console.print(f"{problem}: {known[problem]}, {times[known[problem]]:.1f} µs")
        tuning.save(known, tuning.path_of(name))


def problem_of(product: Product, inputs: Tensor) -> Problem | None:
    """What a product of one part is measured as; None for several."""
    from octavo.kernels.triton.codes_product import Codes, problem, way
    from octavo.kernels.triton.operands import Taken

    if len(product.parts) != 1:
        return None
    part, batch = product.parts[0], tuning.power_of_two(len(inputs))
    if isinstance(part, ShiftPart):
        return Problem("shift", len(part.places), batch, product.rows, len(part.codes))
    if not isinstance(part, CodesPart):
        return None
    taken = Taken(part.columns.numbers, part.columns.factors)
    stored = part.packed, part.values, part.scales
    codes = Codes(*stored, product.rows, taken.count(inputs), part.row_codes, part.block, part.affine)
    return problem(way(inputs, codes, taken), inputs, codes)


def cuts(problem: Problem) -> Iterator[Cut]:
    """What is worth trying."""
    for warps, stages, splits in itertools.product((2, 4, 8), (1, 2, 3), (1, 2, 4)):
        if problem.kernel in ("whole", "few"):
            yield from (Cut(rows, 32 * warps, warps, stages, splits) for rows in (4, 8, 16, 32))
        elif problem.kernel == "many":
            yield from (Cut(rows, 16, warps, stages, splits) for rows in (16, 32, 64, 128))
        else:
            yield from (Cut(rows, width, warps, stages, splits) for rows in (32, 64, 128) for width in (16, 32))


def table(rows: list[Row]) -> Table:
    shown = Table(title=f"products with {rows[0].shape} weights")
    for heading in ("format", "batch", "bits", "µs", "± %", "dense µs", "GB/s", "times as fast", "wanted"):
        shown.add_column(heading, justify="left" if heading == "format" else "right", no_wrap=True)
    for row in rows:
        times = f"{row.microseconds:.1f}", f"{100 * row.spread:.0f}", f"{row.dense:.1f}", f"{row.gigabytes:.0f}"
        wanted = "" if row.wanted is None else f"{row.wanted:.1f} {'met' if row.speedup >= row.wanted else 'missed'}"
        shown.add_row(row.format, str(row.batch), f"{row.bits:.2f}", *times, f"{row.speedup:.2f}", wanted)
    return shown


if __name__ == "__main__":
    typer.run(main)
