"""Where the commands print: tables on standard output, everything else on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 240


def output() -> Console:
    """The console on standard output. Into a pipe or a file it writes wide plain lines that are never cut."""
    from rich.console import Console

    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return Console(width=wide, markup=False, highlight=False, emoji=False)


def print_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,), title: str = ""
) -> None:
    """Print a table; columns in `left` hold words, the others figures."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for i, head in enumerate(heads):
        words = i in left
        table.add_column(head, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    output().print(table)


def say(line: str) -> None:
    """Print one line of result, unwrapped."""
    output().print(printable(line), soft_wrap=True)


def printable(text: str) -> str:
    """The text with control characters made visible: what a model or a file says must not steer the terminal."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)
