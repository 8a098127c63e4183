"""Running a recipe, and keeping what it found: `figures.json`, `plot.png` and `table.md` in its directory."""

from __future__ import annotations

import dataclasses
import io
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.base.errors import OutputError
from octavo.base.progress import SILENT, Progress
from octavo.checkpoints.durable import disk_errors, sync_directory, write_durably
from octavo.recipes.recipe import Findings, Kitchen, Line, Scale
from octavo.recipes.registry import Entry, find

FIGURES, PLOT, TABLE = "figures.json", "plot.png", "table.md"
HEADS = ("quantity", "paper", "ours", "interval", "verdict")


@dataclass(frozen=True)
class Report:
    """A recipe that was run.

    Attributes:
        out: where its figures, plot and table are.
        findings: what it found.
        notes: its notes, what it cost, and how many of its jobs failed.
        seconds: how long this took; less than the whole where an earlier run had begun it.
        cpu_seconds: of this process and of all jobs, those of earlier runs included.
    """

    out: Path
    findings: Findings
    notes: tuple[str, ...]
    seconds: float
    cpu_seconds: float


def run_recipe(
    name: str,
    out: Path,
    scale: Scale = Scale.default,
    *,
    seed: int = 0,
    device: str | None = None,
    workers: int | None = None,
    ray: str | None = None,
    progress: Progress = SILENT,
) -> Report:
    """Run a recipe; one that was interrupted goes on where it stopped.

    Args:
        name: of the recipe.
        out: a directory; new, or of the same recipe and not finished.
        scale: how large.
        seed: of everything random.
        device: where models are trained. Default: `cuda` at the scale `gpu`, else `cpu`.
        workers: runs at a time. Default: one a core; on a GPU one.
        ray: address of a Ray cluster for the runs, or `local`.
        progress: told of the runs.

    Raises:
        OutputError: the directory holds a finished recipe.
        LawError: there is no such recipe, or none of its runs ended well.
    """
    entry = find(name)
    if (out / FIGURES).exists():
        raise OutputError(f"{out} holds a finished recipe", "give another directory, or remove this one")
    device = device or ("cuda" if scale is Scale.gpu else "cpu")
    if workers is None and device != "cpu":
        workers = 1
    kitchen = Kitchen(scale, out, seed, device, workers, ray, progress)
    began, began_cpu = time.monotonic(), time.process_time()
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    findings = entry.load()(kitchen)
    seconds = time.monotonic() - began
    cpu = time.process_time() - began_cpu + kitchen.cpu_seconds
    notes = (*findings.notes, f"{cpu:,.0f} seconds of CPU time, all jobs together")
    if kitchen.failures:
        notes = (*notes, f"{len(kitchen.failures)} runs failed, the first with: {kitchen.failures[0].message}")
    report = Report(out, findings, notes, seconds, cpu)
    with disk_errors(out):
        write_durably(out / PLOT, [_picture(findings)])
        write_durably(out / TABLE, [_page(name, entry, report).encode()])
        write_durably(out / FIGURES, [json.dumps(_figures(name, entry, kitchen, report), indent=1).encode()])
        sync_directory(out)
    return report


def markdown_table(lines: tuple[Line, ...]) -> str:
    """The table as Markdown."""
    rows = [HEADS, ("---",) * len(HEADS), *(cells(line) for line in lines)]
    return "".join(f"| {' | '.join(cell.replace('|', '¦') for cell in row)} |\n" for row in rows)


def cells(line: Line) -> tuple[str, ...]:
    """A line's words, in the order of `HEADS`."""
    return (line.quantity, line.paper, line.ours, line.interval, str(line.verdict))


def _page(name: str, entry: Entry, report: Report) -> str:
    notes = "".join(f"- {note}\n" for note in report.notes)
    title = f"# {name}\n\n{entry.claim[0].upper()}{entry.claim[1:]} (arXiv {entry.source}).\n\n"
    return f"{title}{markdown_table(report.findings.lines)}\n{notes}\n![{name}]({PLOT})\n"


def _figures(name: str, entry: Entry, kitchen: Kitchen, report: Report) -> dict[str, Any]:
    return {
        "recipe": name,
        "source": f"arXiv {entry.source}",
        "scale": str(kitchen.scale),
        "seed": kitchen.seed,
        "device": kitchen.device,
        "seconds": round(report.seconds, 1),
        "cpu_seconds": round(report.cpu_seconds, 1),
        "lines": [dataclasses.asdict(line) for line in report.findings.lines],
        "notes": list(report.notes),
        "failures": [dataclasses.asdict(failure) for failure in kitchen.failures],
        "figures": report.findings.figures,
    }


def _picture(findings: Findings) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    findings.draw(figure)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return data.getvalue()
