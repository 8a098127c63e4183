"""How fast weights are quantized and packed, and unpacked and dequantized, against the bandwidth of the memory.

A weight is read once (4 bytes, float32), its code is written (bits / 8 bytes) and its scale read (4 / block bytes), or
the reverse. The roofline is the bandwidth measured in the same run, by copying a tensor of the same size (the best over
the numbers of threads), divided by these bytes; a cache helps both alike. Every figure is the best of some runs on an
otherwise idle machine. The definition in plain torch is timed on the first rows only: it is many times slower.

    python benchmarks/kernels.py
    python benchmarks/kernels.py --bits 4 --threads 2 --rows 4096 --columns 4096 --output-dtype bfloat16
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from octavo.kernels import cpu, reference
from octavo.kernels.backends import Backend
from octavo.kernels.ops import midpoints_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Row:
    """Millions of weights a second of one alphabet on one back end, and what the memory would allow."""

    backend: str
    threads: int
    levels: int
    quantize: float
    quantize_roofline: float
    dequantize: float
    dequantize_roofline: float


@dataclass(frozen=True)
class Problem:
    """What is timed: weights, their scales, and the dtype of the dequantized values."""

    weights: torch.Tensor
    scales: torch.Tensor
    block: int
    dtype: torch.dtype
    repeats: int


def main(
    bits: Annotated[list[int] | None, typer.Option(help="Bits a code; repeat for several.")] = None,
    levels: Annotated[list[int] | None, typer.Option(help="Further alphabets, powers of two or not.")] = None,
    threads: Annotated[list[int] | None, typer.Option(help="Threads; repeat for several.")] = None,
    rows: int = 2048,
    columns: int = 2048,
    block: int = 64,
    repeats: int = 15,
    output_dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    torch_reference: Annotated[bool, typer.Option(help="Also time the definition in plain torch.")] = True,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here as JSON.")] = None,
) -> None:
    """Time the kernels on this machine and print them beside the memory's roofline."""
    console = Console()
    alphabets = [1 << width for width in bits or range(1, 9)] + (levels if levels is not None else [3, 11])
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(rows, columns, generator=generator)
    scales = torch.rand(rows, -(-columns // block), generator=generator) + 0.5
    problem = Problem(weights, scales, block, DTYPES[output_dtype], repeats)
    if not cpu.MISSING:
        console.print(f"C++ runs its {cpu.instruction_set()} loops")
    results = on_cpu(problem, alphabets, threads or [1, 2], torch_reference, console)
    results += on_gpu(problem, alphabets, console)
    console.print(table(results, problem))
    if json_path is not None:
        machine = {"machine": platform.machine(), "torch": torch.__version__, "rows": rows, "columns": columns}
        json_path.write_text(json.dumps({**machine, "rows_timed": [asdict(row) for row in results]}, indent=1) + "\n")


def on_cpu(problem: Problem, alphabets: list[int], threads: list[int], with_torch: bool, console: Console) -> list[Row]:
    bandwidth = 0.0
    for count in threads:
        torch.set_num_threads(count)
        moved = copy_bandwidth(problem, nothing)
        console.print(f"{count} thread(s): copying {problem.weights.numel() * 4 >> 20} MiB moves {moved:.1f} GB/s")
        bandwidth = max(bandwidth, moved)
    found = []
    if cpu.MISSING:
        console.print(f"C++: unmeasured ({cpu.MISSING})")
    for count in threads:
        torch.set_num_threads(count)
        if not cpu.MISSING:
            found += [timed(problem, levels, "C++", count, bandwidth, cpu, nothing) for levels in alphabets]
        if with_torch:
            part = first_rows(problem)
            found += [timed(part, levels, "torch", count, bandwidth, reference, nothing) for levels in alphabets]
    return found


def first_rows(problem: Problem) -> Problem:
    rows = max(1, (1 << 18) // problem.weights.shape[1])
    return replace(problem, weights=problem.weights[:rows], scales=problem.scales[:rows], repeats=2)


def on_gpu(problem: Problem, alphabets: list[int], console: Console) -> list[Row]:
    if not torch.cuda.is_available():
        console.print("GPU: unmeasured (no CUDA device)")
        return []
    if find_spec("triton") is None:
        console.print("GPU: unmeasured (triton is not installed)")
        return []
    from octavo.kernels import triton

    there = Problem(problem.weights.cuda(), problem.scales.cuda(), problem.block, problem.dtype, problem.repeats)
    bandwidth = copy_bandwidth(there, torch.cuda.synchronize)
    console.print(f"{torch.cuda.get_device_name()}: copying moves {bandwidth:.0f} GB/s")
    powers = [levels for levels in alphabets if levels & (levels - 1) == 0]
    return [timed(there, levels, "Triton", 0, bandwidth, triton, torch.cuda.synchronize) for levels in powers]


def timed(
    problem: Problem,
    levels: int,
    name: str,
    threads: int,
    bandwidth: float,
    backend: Backend,
    finish: Callable[[], None],
) -> Row:
    weights, scales, block = problem.weights, problem.scales, problem.block
    rows, cols = weights.shape
    codebook = torch.linspace(-2.5, 2.5, levels, device=weights.device)
    midpoints = midpoints_of(codebook)
    packed = backend.quantize_pack(weights, scales, midpoints, block, levels)
    to_codes = best(lambda: backend.quantize_pack(weights, scales, midpoints, block, levels), problem.repeats, finish)
    to_values = best(
        lambda: backend.unpack_dequantize(packed, scales, codebook, block, rows, cols, problem.dtype),
        problem.repeats,
        finish,
    )
    count = weights.numel()
    side = packed.numel() / count + 4 * scales.numel() / count
    return Row(
        backend=name,
        threads=threads,
        levels=levels,
        quantize=count / to_codes / 1e6,
        quantize_roofline=1e3 * bandwidth / (weights.element_size() + side),
        dequantize=count / to_values / 1e6,
        dequantize_roofline=1e3 * bandwidth / (problem.dtype.itemsize + side),
    )


def copy_bandwidth(problem: Problem, finish: Callable[[], None]) -> float:
    """Gigabytes a second, read and written, of copying the weights."""
    target = torch.empty_like(problem.weights)
    seconds = best(lambda: target.copy_(problem.weights), problem.repeats, finish)
    return 2 * target.numel() * target.element_size() / seconds / 1e9


def best(call: Callable[[], object], repeats: int, finish: Callable[[], None]) -> float:
    """Shortest seconds of a call, after one that warms up."""
    call()
    finish()
    shortest = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        finish()
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


def nothing() -> None:
    """A CPU has finished when a call returns."""


def table(results: list[Row], problem: Problem) -> Table:
    rows, cols = problem.weights.shape
    shown = Table(title=f"millions of weights a second, {rows} x {cols}, block {problem.block}, float32 weights")
    for heading in ("back end", "threads", "levels", "bits", "quantize", "of roofline", "dequantize", "of roofline"):
        shown.add_column(heading, justify="left" if heading == "back end" else "right")
    for row in results:
        shown.add_row(
            row.backend,
            str(row.threads or "-"),
            str(row.levels),
            f"{math.log2(row.levels):.2f}",
            f"{row.quantize:,.0f}",
            f"{row.quantize / row.quantize_roofline:.0%}",
            f"{row.dequantize:,.0f}",
            f"{row.dequantize / row.dequantize_roofline:.0%}",
        )
    return shown


if __name__ == "__main__":
    typer.run(main)
