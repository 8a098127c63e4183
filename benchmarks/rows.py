"""The command line and the table that benchmarks of a model's quality share: rows in sections, measured if missing."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.table import Table

from keeping import Result, measure_missing, read_results
from linears import Row

COLUMNS = {
    "bits": ("bits/weight", ".3f"),
    "bytes": ("bytes", ",.0f"),
    "implied_bytes": ("implied bytes", ",.0f"),
    "kl": ("KL", ".4f"),
    "kl_error": ("±", ".4f"),
    "perplexity": ("perplexity", ".2f"),
    "word_errors": ("word errors", ".1%"),
    "relative_squared_error": ("relative squared error", ".5f"),
    "seconds": ("seconds", ".0f"),
}
"""Titles of figures, and how they are written."""


class Bench(Protocol):
    """What measures the rows of a benchmark."""

    def rows(self, section: str) -> Iterator[tuple[str, Row]]:
        """Names and rows of a section."""
        ...

    def result(self, row: Row) -> Result:
        """The figures of a row."""
        ...


def benchmark(
    description: str | None,
    results: Path,
    sections: Sequence[str],
    sequences: tuple[int, int],
    bench: Callable[[int, int], Bench],
) -> None:
    """Measure what the command line asks for, keep it, and print all that is known.

    Args:
        description: of the benchmark, for `--help`.
        results: where they are kept.
        sections: names of its sections.
        sequences: how many to calibrate and to evaluate on, unless the command line says otherwise.
        bench: makes the benchmark for such numbers; not called if nothing is to be measured.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", choices=sections, action="append")
    parser.add_argument("--only", help="only rows whose names contain this")
    parser.add_argument("--calibration", type=int, default=sequences[0], help="calibration sequences")
    parser.add_argument("--evaluation", type=int, default=sequences[1], help="evaluation sequences")
    parser.add_argument("--again", action="store_true", help="measure rows that have a result already")
    parser.add_argument("--table", action="store_true", help="print what is known and measure nothing")
    options = parser.parse_args()
    console = Console(width=140)
    if not options.table:
        made = bench(options.calibration, options.evaluation)
        chosen = (
            (name, partial(made.result, row))
            for section in options.section or sections
            for name, row in made.rows(section)
            if not options.only or options.only in name
        )
        measure_missing(
            results,
            chosen,
            options.again,
            lambda name, r: console.print(f"{name}: {r['bits']:.3f} bits, KL {r['kl']:.4f}"),
        )
    console.print(table(read_results(results)))


def table(results: Mapping[str, Result]) -> Table:
    """The results by bits, with the columns for which there are figures; claims have a table of their own."""
    shown = {name: result for name, result in results.items() if not name.startswith("claim")}
    columns = [column for column in COLUMNS if any(column in result for result in shown.values())]
    out = Table("format", *(COLUMNS[column][0] for column in columns))
    for name, result in sorted(shown.items(), key=lambda item: -item[1]["bits"]):
        out.add_row(name, *(f"{result[c]:{COLUMNS[c][1]}}" if c in result else "" for c in columns))
    return out
