"""Jobs in processes of this machine, some at a time.

Each worker is a pool of one process, so that when a process is killed it is known which job it was doing: that job has
failed, and the worker goes on with the next in a new process.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from octavo.base.errors import OctavoError

Outcomes = Generator[tuple[int, dict[str, Any]], None, None]
"""The number of each job and what became of it, in the order in which they end."""

KILLED = "its process died: it was killed, or the machine ran out of memory"


def perform(name: str, job: str) -> str:
    """Do a job in this process.

    Args:
        name: `module:name` of the function.
        job: what it is given, as JSON.

    Returns:
        JSON with `result`, `seconds` and `cpu_seconds` (of all threads of this process), or with `error`.
    """
    module, _, inner = name.partition(":")
    began, began_cpu = time.monotonic(), time.process_time()
    try:
        result = getattr(importlib.import_module(module), inner)(json.loads(job))
        seconds, cpu = time.monotonic() - began, time.process_time() - began_cpu
        return json.dumps({"result": result, "seconds": round(seconds, 3), "cpu_seconds": round(cpu, 3)})
    except OctavoError as error:
        return json.dumps({"error": str(error)})
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(last.filename)}, line {last.lineno}"
        return json.dumps({"error": f"{type(error).__name__}: {error} ({place})"})


def in_processes(name: str, jobs: Sequence[str], workers: int, threads: int) -> Outcomes:
    """Do jobs in processes, and yield each one's number and outcome as it ends.

    When the caller stops taking outcomes, the processes are ended.

    Args:
        name: `module:name` of the function.
        jobs: what it is given, as JSON.
        workers: processes at a time.
        threads: of torch in each.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(jobs)):
        waiting.put(index)
    ended: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()
    stopped = threading.Event()
    living: dict[ProcessPoolExecutor, int] = {}

    def feed() -> None:
        pool = None
        while not stopped.is_set():
            try:
                index = waiting.get_nowait()
            except queue.Empty:
                break
            try:
                if pool is None:
                    pool = _start(threads)
                    living[pool] = pool.submit(os.getpid).result()
                outcome = json.loads(pool.submit(perform, name, jobs[index]).result())
            except BrokenProcessPool:
                outcome = {"error": KILLED}
            except OSError as error:
                outcome = {"error": f"no process could be started: {error}"}
            if pool is not None and outcome.get("error") == KILLED:
                living.pop(pool, None)
                pool.shutdown(wait=False)
                pool = None
            ended.put((index, outcome))
        if pool is not None:
            pool.shutdown()
            living.pop(pool, None)

    feeders = [threading.Thread(target=feed, daemon=True) for _ in range(workers)]
    for feeder in feeders:
        feeder.start()
    try:
        for _ in jobs:
            yield ended.get()
    except BaseException:
        stopped.set()
        while any(feeder.is_alive() for feeder in feeders):
            for process in list(living.values()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGTERM)
            feeders[0].join(0.05)
            time.sleep(0.01)
        raise
    for feeder in feeders:
        feeder.join()


def _start(threads: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(threads,))


def _begin(threads: int) -> None:
    """What a worker does first."""
    # Ctrl-C reaches the whole group; the parent notes what is done, then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would otherwise wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
