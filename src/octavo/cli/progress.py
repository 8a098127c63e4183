"""Progress of a command on standard error: bars on a terminal, plain lines without escape codes elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from octavo.base.progress import Description, Progress

if TYPE_CHECKING:
    import rich.progress

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 15.0


class PlainProgress:
    """Says a line when a piece of work begins, every quarter of a minute, and when it ends."""

    def track(self, items: Iterable[T], description: Description, total: int | None = None) -> Iterator[T]:
        if total is None and isinstance(items, Sized):
            total = len(items)
        of = "" if total is None else f"/{total}"
        began = said = time.monotonic()
        self.message(f"{_said(description)}: 0{of}")
        done = 0
        for item in items:
            yield item
            done += 1
            if time.monotonic() - said >= SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                left = "" if total is None else f", {(total - done) * (said - began) / done:.0f} s left"
                self.message(f"{_said(description)}: {done}{of}{left}")
        self.message(f"{_said(description)}: {done}{of}, {time.monotonic() - began:.1f} s")

    def message(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class BarProgress:
    """Draws a bar for each piece of work; finished ones stay as a record of where the time went."""

    def __init__(self, bars: rich.progress.Progress) -> None:
        self.bars = bars

    def track(self, items: Iterable[T], description: Description, total: int | None = None) -> Iterator[T]:
        if total is None and isinstance(items, Sized):
            total = len(items)
        task = self.bars.add_task(_said(description), total=total)
        done = 0
        for item in items:
            yield item
            done += 1
            self.bars.update(task, completed=done, description=_said(description))
        self.bars.update(task, total=done, completed=done)
        self.bars.stop_task(task)

    def message(self, text: str) -> None:
        self.bars.console.print(text, markup=False, highlight=False)


def _said(description: Description) -> str:
    return description if isinstance(description, str) else description()


@contextmanager
def shown() -> Iterator[Progress]:
    """Progress for the time of a command: bars if standard error is a terminal, else plain lines."""
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield BarProgress(bars)
