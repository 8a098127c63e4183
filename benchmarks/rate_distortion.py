"""How far every format is from Shannon's bound on known sources, and what each idea buys.

A tensor of 1536 x 1536 independent samples is quantized at 1 to 6 bits, all that is stored counted. The gap is what a
code on the bound would save at the same squared error. The bound is Shannon's lower bound: for the normal source it is
the rate-distortion function, for Laplace and Student-t it lies below that by less than 0.004 bit from one bit up, and
gaps are overstated by so much (see octavo.measure.rate_distortion).

Speeds are millions of weights a second on all of torch's threads, the median of repeated calls: encoding is all of
`quantize`, the search for a grid's step included, decoding is from the stored parts to float32. A point that decodes
slower than 100 M weights/s is drawn hollow and does not count.

    python benchmarks/rate_distortion.py                   all sources; ten minutes on two cores
    python benchmarks/rate_distortion.py --source normal   one of them
    python benchmarks/rate_distortion.py --table           tables and picture of the results that are kept
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from keeping import Result, measure_missing, read_results
from octavo.formats import Format
from octavo.measure.rate_distortion import decibels, distortion_bound, rate_bound, relative_error
from octavo.measure.sources import Source, source

RESULTS = Path(__file__).parent / "results" / "rate_distortion.json"
PICTURE = Path(__file__).parent.parent / "docs" / "rate_distortion.png"

SOURCES = {"normal": source("normal"), "laplace": source("laplace"), "t(df=5)": source("t", 5.0)}
"""By the name that formats use for them."""

SIDE = 1536
SLOW = 100.0
"""Decoding slower than so many million weights a second does not count."""

PATIENCE = 0.4
"""Seconds after which a call is not timed again."""

WIDTHS = (1, 2, 3, 4, 5, 6)
RATES = (2, 3, 4)
"""Bits at which gaps are compared."""

NEAR = 0.3
"""Bits from the nearest point of a family beyond which it has no gap."""

Family = tuple[str, tuple[str, ...]]
"""An idea, and its format strings; `{law}` is the source's name."""


def at_widths(text: str, widths: Iterable[float] = WIDTHS) -> tuple[str, ...]:
    """The format strings of `text` for some widths, which take the place of `WIDTH`."""
    return tuple(text.replace("WIDTH", f"{width:g}") for width in widths)


LINES: tuple[Family, ...] = (
    ("integers, blocks of 64", at_widths("int@WIDTH b64 absmax:bf16")),
    ("+ searched scales", at_widths("int@WIDTH b64 search:bf16")),
    ("+ cube-root values", at_widths("cbrt-{law}@WIDTH b64 search:bf16")),
    ("+ k-means values", at_widths("lloyd@WIDTH b64 search:bf16")),
    ("+ one scale for all", at_widths("lloyd@WIDTH tensor rms:fp32")),
    ("+ outliers apart", at_widths("lloyd@WIDTH tensor rms:fp32 outliers=0.001")),
    ("grid with entropy code", at_widths("grid@WIDTH tensor rms:fp32 ans")),
    ("+ trellis of 4 states", at_widths("grid(states=4)@WIDTH tensor rms:fp32 ans")),
    ("+ trellis of 8 states", at_widths("grid(states=8)@WIDTH tensor rms:fp32 ans")),
    ("+ trellis of 64 states", at_widths("grid(states=64)@WIDTH tensor rms:fp32 ans")),
    ("trellis of fixed width, 256 states", at_widths("trellis(states=256)@WIDTH channel rms:u8", (1, 2, 3, 4))),
    ("+ 4096 states", at_widths("trellis(states=4096)@WIDTH channel rms:u8")),
    ("lattice E8", at_widths("lattice-e8@WIDTH b64 search:bf16", (1, 2, 3, 4))),
    ("grouped lattices (GLVQ)", at_widths("glvq(d=8)@WIDTH tensor absmax:fp32", (2, 3))),
)
"""Each idea is added to the one above it, or takes its place."""

POINTS: tuple[Family, ...] = (
    ("MX", ("mxfp4", "mxint4", "mxfp6-e2m3")),
    ("NVFP4", ("nvfp4",)),
    ("nf4", ("nf4 b64 absmax:bf16",)),
)
"""Formats that others have."""

T = TypeVar("T")


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """A call's result, and its median seconds over as many calls as fit into `PATIENCE`, at least one."""
    seconds: list[float] = []
    while True:
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
        if sum(seconds) > PATIENCE:
            return result, statistics.median(seconds)


def measure(text: str, law: Source, side: int) -> Result:
    """Bits, error, gap and speed of a format on a source."""
    samples = law.sample(side * side, torch.Generator().manual_seed(0)).reshape(side, side)
    format = Format.parse(text)
    quantized, encoding = timed(lambda: format.quantize(samples))
    restored, decoding = timed(quantized.dequantize)
    error = relative_error(samples, restored)
    return {
        "bits": quantized.bits_per_weight,
        "sqnr_db": decibels(error),
        "gap_bits": quantized.bits_per_weight - rate_bound(law, error),
        "encode": samples.numel() / encoding / 1e6,
        "decode": samples.numel() / decoding / 1e6,
    }


def key(name: str, text: str) -> str:
    """A result's name."""
    return f"{name}: {text.format(law=name)}"


def found(results: dict[str, Result], name: str, family: Family) -> list[Result]:
    """The results of a family on a source, by ascending bits."""
    rows = [results[key(name, text)] for text in family[1] if key(name, text) in results]
    return sorted(rows, key=lambda row: row["bits"])


def counts(row: Result) -> bool:
    """Whether a point is decoded fast enough."""
    return row["decode"] >= SLOW


def gap_at(rows: list[Result], rate: float) -> float | None:
    """The gap of a family at a rate, between its points that count; None where it has none near."""
    fast = [row for row in rows if counts(row)]
    if not fast or min(abs(row["bits"] - rate) for row in fast) > NEAR:
        return None
    return float(np.interp(rate, [row["bits"] for row in fast], [row["gap_bits"] for row in fast]))


def print_tables(results: dict[str, Result], console: Console) -> None:
    """One table a source, and the best that counts."""
    for name in SOURCES:
        if not any(found(results, name, family) for family in LINES):
            continue
        table = Table(title=f"{name}: bits above Shannon's bound, everything counted; speeds in M weights/s")
        table.add_column("idea", no_wrap=True)
        for heading in (*(f"at {rate} bits" for rate in RATES), "saves at 3", "encode", "decode"):
            table.add_column(heading, justify="right", no_wrap=True)
        before: float | None = None
        best: dict[int, tuple[float, str]] = {}
        for family in (*LINES, *POINTS):
            rows = found(results, name, family)
            if not rows:
                continue
            gaps = [gap_at(rows, rate) for rate in RATES]
            for rate, gap in zip(RATES, gaps, strict=True):
                if gap is not None:
                    best[rate] = min(best.get(rate, (gap, family[0])), (gap, family[0]))
            now = gap_at(rows, 3)
            saved = "" if before is None or now is None else f"{before - now:+.3f}"
            speeds = [f"{statistics.median(row[kind] for row in rows):,.1f}" for kind in ("encode", "decode")]
            shown = ["" if gap is None else f"{gap:.3f}" for gap in gaps]
            if family in POINTS:
                shown, saved = [" ".join(f"{row['gap_bits']:.2f}" for row in rows), "", ""], ""
            table.add_row(family[0], *shown, saved, *speeds)
            before = now
        console.print(table)
        said = ", ".join(f"{gap:.3f} at {rate} bits ({idea})" for rate, (gap, idea) in best.items())
        console.print(f"nearest to the bound on {name}: {said}\n")


def draw(results: dict[str, Result], path: Path) -> None:
    """Save the picture: above, SQNR and the bound; below, the bits that each idea still leaves to the bound."""
    names = [name for name in SOURCES if any(found(results, name, family) for family in LINES)]
    figure, grid = plt.subplots(
        2, len(names), figsize=(1.5 + 4.2 * len(names), 8), dpi=150, layout="constrained", squeeze=False, sharex=True
    )
    colors = plt.get_cmap("turbo")(np.linspace(0.05, 0.95, len(LINES)))
    for column, name in enumerate(names):
        above, below = grid[:, column]
        bits = np.array([0.9, 6.6])
        above.plot(bits, [decibels(distortion_bound(SOURCES[name], b)) for b in bits], color="black", linewidth=1)
        below.axhline(0, color="black", linewidth=1, label="Shannon's bound")
        for family, color in zip(LINES, colors, strict=True):
            rows = found(results, name, family)
            for axes, what in ((above, "sqnr_db"), (below, "gap_bits")):
                axes.plot([r["bits"] for r in rows], [r[what] for r in rows], color=color, linewidth=1.3)
                for row in rows:
                    _mark(axes, row, what, color, "o")
            below.plot([], [], color=color, marker="o", markersize=4, label=family[0])
        for number, family in enumerate(POINTS):
            marker = "s^D"[number % 3]
            for text in family[1]:
                row = results.get(key(name, text))
                if row is not None:
                    _mark(above, row, "sqnr_db", "#5c564f", marker)
                    _mark(below, row, "gap_bits", "#5c564f", marker)
            below.plot([], [], color="#5c564f", marker=marker, markersize=4, linestyle="", label=family[0])
        above.set_title(name)
        below.set_xlabel("bits per weight, everything counted")
        above.set_ylim(0, 41)
        below.set_ylim(-0.05, 1.65)
        for axes in (above, below):
            axes.grid(True, color="#e3dfd8")
            axes.spines[["top", "right"]].set_visible(False)
    grid[0, 0].set_ylabel("signal to quantization noise, dB")
    grid[1, 0].set_ylabel("bits above the bound (lower is better)")
    handles, labels = grid[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    figure.savefig(path)
    plt.close(figure)


def _mark(axes: Axes, row: Result, what: str, color: object, marker: str) -> None:
    """A point, hollow where it is decoded too slowly to count."""
    face = color if counts(row) else "white"
    axes.plot(row["bits"], row[what], marker, markersize=4, markeredgecolor=color, markerfacecolor=face)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--source", choices=SOURCES, help="only this source")
    parser.add_argument("--side", type=int, default=SIDE, help="rows and columns of the tensor")
    parser.add_argument("--again", action="store_true", help="also what is known already")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where figures are kept")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where the picture goes")
    arguments = parser.parse_args()
    console = Console(width=120)
    if not arguments.table:
        names = [arguments.source] if arguments.source else list(SOURCES)
        rows = [
            (key(name, text), partial(measure, text.format(law=name), SOURCES[name], arguments.side))
            for name in names
            for _, texts in (*LINES, *POINTS)
            for text in texts
        ]
        console.print(f"{torch.get_num_threads()} thread(s)")
        measure_missing(
            arguments.results,
            rows,
            arguments.again,
            lambda said, row: console.print(
                f"{said}: {row['bits']:.3f} bits, {row['sqnr_db']:.2f} dB, {row['gap_bits']:.3f} from the bound"
            ),
        )
    results = read_results(arguments.results)
    print_tables(results, console)
    draw(results, arguments.picture)
    console.print(str(arguments.picture))


if __name__ == "__main__":
    main()
