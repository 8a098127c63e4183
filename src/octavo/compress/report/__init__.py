"""The report of a compression: what was lost, where the bits went, and what the model says now, on one page.

from octavo.compress.report import ReportData, write_report
write_report("report.html", ReportData.from_json(text))
"""

from __future__ import annotations

import os
from pathlib import Path

from octavo.compress.report.data import Original, Point, ReportData, Result, TensorRow
from octavo.compress.report.page import render

__all__ = ["Original", "Point", "ReportData", "Result", "TensorRow", "read_report", "render", "write_report"]


def write_report(path: str | Path, results: ReportData) -> Path:
    """Write `results` as one self-contained HTML file, replacing it whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.partial")
    unfinished.write_text(render(results), encoding="utf-8")
    os.replace(unfinished, path)
    return path


def read_report(path: str | Path) -> ReportData:
    """The data that a written report carries. Raises OctavoError if the file is no report of ours."""
    text = Path(path).read_text(encoding="utf-8")
    _, _, rest = text.partition('<script type="application/json" id="octavo-report">')
    return ReportData.from_json(rest.partition("</script>")[0])
