"""Progress on standard error: plain lines without a terminal, bars with one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from octavo.cli.progress import BarProgress, PlainProgress, shown


def test_plain_lines_tell_beginning_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    with shown() as progress:
        assert list(progress.track([1, 2, 3], "rounding")) == [1, 2, 3]
        assert list(progress.track(iter("ab"), "reading", total=2)) == ["a", "b"]
        progress.message("one tensor was never reached")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "rounding: 0/3"
    assert lines[1].startswith("rounding: 3/3, ")
    assert lines[2] == "reading: 0/2"
    assert lines[4] == "one tensor was never reached"
    assert "\x1b" not in err
    assert "\r" not in err


def test_plain_lines_of_an_unknown_total(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(PlainProgress().track(iter("abc"), "reading")) == list("abc")
    assert "reading: 3, " in capsys.readouterr().err


@pytest.mark.parametrize("total", [None, 5])
def test_bars_pass_the_items_on_and_finish(total: int | None) -> None:
    written = io.StringIO()
    with Progress(console=Console(file=written, force_terminal=True, width=80)) as bars:
        progress = BarProgress(bars)
        assert list(progress.track(iter(range(5)), "rounding", total=total)) == [0, 1, 2, 3, 4]
        progress.message("a [bracketed] line")
        assert all(task.finished for task in bars.tasks)
    assert "a [bracketed] line" in written.getvalue()


def test_nested_work_has_a_bar_each() -> None:
    with Progress(console=Console(file=io.StringIO())) as bars:
        progress = BarProgress(bars)
        pairs = [(a, b) for a in progress.track("xy", "outer") for b in progress.track([1, 2], "inner")]
        assert len(pairs) == 4
        assert [task.description for task in bars.tasks] == ["outer", "inner", "inner"]


def test_a_description_can_change(capsys: pytest.CaptureFixture[str]) -> None:
    done: list[int] = []
    for item in PlainProgress().track([1, 2], lambda: f"sum {sum(done)}"):
        done.append(item)
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == ["sum 0: 0/2", "sum 3: 2/2"]
