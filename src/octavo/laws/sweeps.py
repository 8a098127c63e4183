"""Independent runs of one function: by processes or on Ray, resumable, one failure stopping nothing else.

A job is a dict that JSON can hold; the function takes it and returns another. Every finished job is in the directory's
journal before the next result is looked at, and a sweep that is started again does only what the journal lacks.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.base.errors import LawError
from octavo.base.progress import SILENT, Progress
from octavo.checkpoints.durable import disk_errors, locked_directory
from octavo.laws.journal import Journal, key_of
from octavo.laws.sweep_processes import in_processes

Job = dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """A job that failed, and why."""

    job: Job
    message: str


@dataclass(frozen=True)
class Sweep:
    """What became of a sweep.

    Attributes:
        rows: of each finished job its own fields and those of its result, in the order of the jobs.
        failures: the other jobs.
        reused: how many results were in the journal already.
        cpu_seconds: that the finished jobs took, those in the journal already included; whatever else the machine did.
    """

    rows: list[Job]
    failures: list[Failure]
    reused: int
    cpu_seconds: float


def run_sweep(
    jobs: Sequence[Job],
    function: Callable[[Job], dict[str, Any]] | str,
    directory: Path,
    *,
    workers: int | None = None,
    ray: str | None = None,
    progress: Progress = SILENT,
    description: str = "runs",
) -> Sweep:
    """Do every job that the directory's journal does not hold yet.

    Args:
        jobs: dicts that JSON can hold; equal ones are done once.
        function: takes a job and returns a dict that JSON can hold; a function of a module, or `module:name`.
        directory: where the journal lies; made if missing.
        workers: processes at a time; None for one a core. Each gets an equal share of the cores' threads.
        ray: address of a Ray cluster, or `local` to start one on this machine; None for processes of this machine.
        progress: told of each finished job, and of failures as they happen.
        description: what the jobs are called there.

    Raises:
        LawError: the function cannot be imported by its name, a job is not JSON, or Ray is missing or not there.
        OutputError: another process works in the directory, or it cannot be written.
    """
    name = _importable(function)
    keys = [_key(name, job) for job in jobs]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = workers or cores
    with disk_errors(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
    with locked_directory(directory, directory):
        journal = Journal(directory)
        waiting = {key: job for key, job in zip(keys, jobs, strict=True) if journal.result(key) is None}
        reused = len(set(keys)) - len(waiting)
        if waiting:
            texts = [json.dumps(job) for job in waiting.values()]
            if ray is None:
                outcomes = in_processes(name, texts, min(workers, len(texts)), max(1, cores // workers))
            else:
                from octavo.laws.sweeps_ray import on_ray

                outcomes = on_ray(name, texts, ray, workers)
            order = list(waiting)
            # Closed at once when interrupted: what is left unread would go on until it is done.
            with contextlib.closing(outcomes):
                for index, outcome in progress.track(outcomes, description, total=len(order)):
                    journal.append(order[index], waiting[order[index]], outcome)
                    if "error" in outcome:
                        progress.message(f"{texts[index]} failed: {outcome['error']}")
    rows, failures = [], []
    for key, job in zip(keys, jobs, strict=True):
        result = journal.result(key)
        if result is None:
            failures.append(Failure(job, journal.lines[key]["error"]))
        else:
            rows.append({**job, **result})
    cpu = sum(journal.lines[key].get("cpu_seconds", 0.0) for key in set(keys))
    return Sweep(rows, failures, reused, cpu)


def _importable(function: Callable[[Job], dict[str, Any]] | str) -> str:
    name = function if isinstance(function, str) else f"{function.__module__}:{function.__qualname__}"
    module, _, inner = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), inner)
    except (ImportError, AttributeError, ValueError):
        found = None
    if not callable(found) or module == "__main__" or (callable(function) and found is not function):
        raise LawError(f"other processes cannot import {name}", "define the function at the top of a module")
    return name


def _key(name: str, job: Job) -> str:
    try:
        return key_of(name, job)
    except (TypeError, ValueError) as error:
        raise LawError(f"a job is not JSON: {error}", "make it of numbers, strings, lists and dicts") from None
