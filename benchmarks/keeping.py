"""What a benchmark found, kept and found again only where it is missing: results in JSON, our objects as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")

Result = dict[str, float]
Row = tuple[str, Callable[[], Result]]
"""A result's name, and what measures it."""


def read_results(path: Path) -> dict[str, Result]:
    """What is known already."""
    return json.loads(path.read_text()) if path.exists() else {}


def measure_missing(path: Path, rows: Iterable[Row], again: bool, said: Callable[[str, Result], None]) -> None:
    """Measure the rows that have no result, or all of them `again`, and keep each as soon as it is there.

    Args:
        path: the file.
        rows: what to measure.
        again: whether known results are measured again.
        said: told each new result.
    """
    results = read_results(path)
    for name, measure in rows:
        if name in results and not again:
            continue
        results[name] = measure()
        said(name, results[name])
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")


def kept(path: Path, make: Callable[[], T]) -> T:
    """An object of octavo's that is read from a file of ours, or else made and written there."""
    if path.exists():
        return torch.load(path, weights_only=False)
    made = make()
    torch.save(made, path)
    return made
