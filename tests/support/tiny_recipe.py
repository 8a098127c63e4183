"""A recipe of three quick runs, one of which may be made to fail."""

from __future__ import annotations

import sweep_jobs
from matplotlib.figure import Figure

from octavo.recipes.recipe import Findings, Kitchen, Line, Verdict

JOBS = [{"x": 2}, {"x": 3}, {"x": 4, "do": "raise"}]


def cook(kitchen: Kitchen) -> Findings:
    done = kitchen.sweep(JOBS, sweep_jobs.square, "squares")
    squares = [row["square"] for row in done.rows]

    def draw(figure: Figure) -> None:
        figure.subplots().plot([row["x"] for row in done.rows], squares)

    total = sum(squares)
    line = Line("sum of squares", "13", f"{total}", f"{total} … {total}", Verdict.of(total, total, above=10))
    return Findings((line,), {"squares": squares}, draw, (f"seed {kitchen.seed}",))


def hopeless(kitchen: Kitchen) -> Findings:
    kitchen.sweep(JOBS[2:], sweep_jobs.square)
    raise AssertionError("a sweep without results goes no further")
