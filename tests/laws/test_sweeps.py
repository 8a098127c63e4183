"""Sweeps: what fails is told, what is done stays done, by processes and on Ray alike."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sweep_jobs

from octavo.base.errors import LawError, OutputError
from octavo.base.progress import Description, Silent
from octavo.checkpoints.durable import locked_directory
from octavo.laws.journal import NAME
from octavo.laws.sweep_processes import perform
from octavo.laws.sweeps import run_sweep
from octavo.laws.sweeps_ray import gpus_for

T = TypeVar("T")
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: install octavo[ray] (make test does)"
)
MIXED = [{"x": 1}, {"x": 2, "do": "raise"}, {"x": 3}, {"x": 4, "do": "die"}, {"x": 5, "do": "memory"}, {"x": 6}]


class Told(Silent):
    """Progress that remembers what it was told, and is interrupted after some items if asked."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.lines: list[str] = []
        self.interrupt_after = interrupt_after

    def track(self, items: Iterable[T], description: Description, total: int | None = None) -> Iterator[T]:
        for done, item in enumerate(items):
            yield item
            if done + 1 == self.interrupt_after:
                raise KeyboardInterrupt

    def message(self, text: str) -> None:
        self.lines.append(text)


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / NAME).read_text().splitlines()]


def test_failures_are_told_and_the_rest_goes_on_and_only_they_run_again(tmp_path: Path) -> None:
    marks, out = tmp_path / "marks", tmp_path / "out"
    marks.mkdir()
    jobs = [{**job, "marks": str(marks)} for job in MIXED]
    told = Told()
    sweep = run_sweep(jobs, sweep_jobs.square, out, workers=2, progress=told)
    assert [(row["x"], row["square"]) for row in sweep.rows] == [(1, 1), (3, 9), (6, 36)]
    messages = {failure.job["x"]: failure.message for failure in sweep.failures}
    assert messages[2].startswith("ValueError: 2 is not welcome (sweep_jobs.py, line ")
    assert "killed" in messages[4]
    assert "MemoryError" in messages[5]
    assert len(told.lines) == 3
    assert any("not welcome" in line for line in told.lines)
    assert len(lines(out)) == 6

    again = run_sweep([*jobs[:3], {"x": 7, "marks": str(marks)}], sweep_jobs.square, out, workers=1)
    assert [row["x"] for row in again.rows] == [1, 3, 7]
    assert again.reused == 2
    assert {mark.name: mark.read_text() for mark in marks.iterdir()} == {
        "1": "x", "2": "xx", "3": "x", "4": "x", "5": "x", "6": "x", "7": "x",
    }  # fmt: skip


def test_interrupt_keeps_what_is_done_and_ends_the_workers(tmp_path: Path) -> None:
    jobs = [{"x": 1}, {"x": 2, "do": "wait"}, {"x": 3, "do": "wait"}]
    with pytest.raises(KeyboardInterrupt):
        run_sweep(jobs, sweep_jobs.square, tmp_path, workers=2, progress=Told(interrupt_after=1))
    assert [line["job"]["x"] for line in lines(tmp_path)] == [1]
    # The directory is free again.
    assert run_sweep(jobs[:1], sweep_jobs.square, tmp_path).reused == 1


def test_what_jobs_cost_is_counted_once_and_over_all_runs(tmp_path: Path) -> None:
    jobs = [{"x": 1}, {"x": 2}, {"x": 3, "do": "raise"}]
    run_sweep(jobs, sweep_jobs.square, tmp_path, workers=1)
    held = lines(tmp_path)
    assert [line["cpu_seconds"] >= 0 for line in held if "result" in line] == [True, True]
    known = [{**line, "cpu_seconds": 2.0 ** line["job"]["x"]} if "result" in line else line for line in held]
    (tmp_path / NAME).write_text("".join(json.dumps(line) + "\n" for line in known))
    assert run_sweep([*jobs[:2], jobs[0]], sweep_jobs.square, tmp_path).cpu_seconds == 6


def test_a_line_that_was_cut_short_is_done_again(tmp_path: Path) -> None:
    run_sweep([{"x": 1}], sweep_jobs.square, tmp_path, workers=1)
    journal = tmp_path / NAME
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole[: len(whole) // 2])
    sweep = run_sweep([{"x": 1}, {"x": 1}], "sweep_jobs:square", tmp_path)
    assert (len(sweep.rows), sweep.reused) == (2, 1)
    assert journal.read_bytes() == whole


def test_another_function_does_not_take_its_results(tmp_path: Path) -> None:
    run_sweep([{"x": 1}], sweep_jobs.square, tmp_path, workers=1)
    sweep = run_sweep([{"x": 1}], sweep_jobs.threads, tmp_path, workers=1)
    assert sweep.reused == 0
    assert "threads" in sweep.rows[0]


def test_one_process_at_a_time_works_in_a_directory(tmp_path: Path) -> None:
    with locked_directory(tmp_path, tmp_path), pytest.raises(OutputError, match="another process"):
        run_sweep([{"x": 1}], sweep_jobs.square, tmp_path)


@pytest.mark.parametrize("function", [lambda job: {}, "sweep_jobs:nothing", "no_such_module:f", "sweep_jobs"])
def test_functions_that_others_cannot_import_are_refused(tmp_path: Path, function: Any) -> None:
    with pytest.raises(LawError, match="cannot import"):
        run_sweep([{"x": 1}], function, tmp_path)


def test_jobs_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(LawError, match="not JSON"):
        run_sweep([{"x": tmp_path}], sweep_jobs.square, tmp_path)


def test_results_must_be_json() -> None:
    assert "TypeError" in json.loads(perform("sweep_jobs:square", '{"x": 1, "do": "nonsense"}'))["error"]


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_missing_ray_is_said(tmp_path: Path) -> None:
    with pytest.raises(LawError, match=r"octavo\[ray\]"):
        run_sweep([{"x": 1}], sweep_jobs.square, tmp_path, ray="local")


@pytest.mark.parametrize(("device", "gpus"), [(None, 0), ("cpu", 0), ("cuda", 1), ("cuda:1", 1)])
def test_jobs_on_a_gpu_ask_ray_for_one(device: str | None, gpus: int) -> None:
    assert gpus_for(json.dumps({"x": 1} if device is None else {"device": device})) == gpus


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"])
def test_an_address_where_nobody_listens_is_said_at_once(tmp_path: Path, address: str) -> None:
    with pytest.raises(LawError, match="no Ray answers"):
        run_sweep([{"x": 1}], sweep_jobs.square, tmp_path, ray=address)


@needs_ray
def test_a_local_ray_does_the_same(tmp_path: Path) -> None:
    sweep = run_sweep(MIXED[:4], sweep_jobs.square, tmp_path, ray="local", workers=1)
    assert [(row["x"], row["square"]) for row in sweep.rows] == [(1, 1), (3, 9)]
    messages = {failure.job["x"]: failure.message for failure in sweep.failures}
    assert "not welcome" in messages[2]
    assert "killed" in messages[4]
    assert run_sweep(MIXED[:1], sweep_jobs.square, tmp_path, workers=1).reused == 1
