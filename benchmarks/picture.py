"""Draws the results of benchmarks/quality.py: KL divergence over bits per weight, ours and other libraries'.

python benchmarks/picture.py            writes docs/quality.png
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from quality import RESULTS

PICTURE = Path(__file__).parent.parent / "docs" / "quality.png"

Results = dict[str, dict[str, float]]

LINES: tuple[tuple[str, str, str, Callable[[str], bool]], ...] = (
    ("octavo best, stored", "#b0431e", "-", lambda n: n.startswith("octavo best") and n.endswith("stored")),
    ("octavo best, in memory", "#1f6f8b", "-", lambda n: n.startswith("octavo best") and n.endswith("resident")),
    ("octavo uncalibrated, stored", "#b0431e", ":", lambda n: n.startswith("octavo fast") and n.endswith("stored")),
    (
        "octavo uncalibrated, in memory",
        "#1f6f8b",
        ":",
        lambda n: n.startswith("octavo fast") and n.endswith("resident"),
    ),
)
POINTS: tuple[tuple[str, str, str, Callable[[str], bool]], ...] = (
    ("calibrated peers", "#1c1b1a", "s", lambda n: n.endswith("+ importance")),
    ("peers without calibration", "#9a948b", "o", lambda n: not n.startswith(("octavo", "claim"))),
)


def draw(results: Results, path: Path) -> None:
    """Save the picture."""
    figure, axes = plt.subplots(figsize=(8.4, 5.2), dpi=150, layout="constrained")
    left = dict(results)
    for label, color, style, belongs in LINES:
        series = sorted((r["bits"], r["kl"], r["kl_error"]) for name, r in left.items() if belongs(name))
        if series:
            bits, kl, error = zip(*series, strict=True)
            axes.errorbar(bits, kl, yerr=error, color=color, linestyle=style, marker=".", label=label, linewidth=1.6)
    for label, color, marker, belongs in POINTS:
        found = {name: left.pop(name) for name in list(left) if belongs(name)}
        if found:
            values = list(found.values())
            axes.scatter([r["bits"] for r in values], [r["kl"] for r in values], 26, color, marker=marker, label=label)
        # Neighbors get their names on different sides.
        for number, (name, r) in enumerate(sorted(found.items(), key=lambda item: item[1]["kl"])):
            _label(axes, name.replace(" + importance", ""), r, color, left=number % 2 == 1)
    axes.set_yscale("log")
    axes.set_xlabel("bits per weight, everything counted")
    axes.set_ylabel("KL divergence from the original, nats per token")
    axes.grid(True, which="major", color="#e3dfd8")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path)
    plt.close(figure)


def _label(axes: Any, name: str, row: dict[str, float], color: str, left: bool) -> None:
    offset, side = ((-4, 0), "right") if left else ((4, 0), "left")
    place = row["bits"], row["kl"]
    axes.annotate(name, place, xytext=offset, textcoords="offset points", fontsize=6, color=color, ha=side, va="center")


if __name__ == "__main__":
    draw(json.loads(RESULTS.read_text()), PICTURE)
    print(PICTURE)
