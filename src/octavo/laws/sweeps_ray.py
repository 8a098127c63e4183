"""Jobs on a Ray cluster, or on a Ray started on this machine. Needs the extra `octavo[ray]`.

octavo, at the same version, and whatever the jobs read must be there on every node.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from octavo.base.errors import LawError
from octavo.laws.sweep_processes import KILLED, perform

LOCAL = "local"
PATIENCE = 10.0
"""Seconds that a cluster has to answer."""


def on_ray(name: str, jobs: Sequence[str], address: str, workers: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Do jobs on Ray, and yield each one's number and outcome as it ends.

    When the caller stops taking outcomes, the jobs that are left are canceled.

    Args:
        name: `module:name` of the function.
        jobs: what it is given, as JSON.
        address: of the cluster, as Ray has it; `local` starts one here.
        workers: jobs at a time if it is started here. A cluster decides by itself; each job asks for one CPU.

    Raises:
        LawError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise LawError("Ray is not installed", 'install it with pip install "octavo[ray]"') from None
    ours = not ray.is_initialized()
    if ours:
        _knock(address)
        # Ray reports on its use over the network unless told not to.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        local = {"num_cpus": workers, "include_dashboard": False} if address == LOCAL else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise _silent(address, (str(error).strip().splitlines() or [type(error).__name__])[0]) from None
    try:
        # One that is killed has failed: doing it again might fell the next node too.
        task = ray.remote(num_cpus=1, max_retries=0)(_perform)
        pending = {task.remote(sys.path, name, job): index for index, job in enumerate(jobs)}
        try:
            while pending:
                (done,), _ = ray.wait(list(pending), num_returns=1)
                index = pending.pop(done)
                try:
                    yield index, json.loads(ray.get(done))
                except ray.exceptions.WorkerCrashedError:
                    yield index, {"error": KILLED}
                except ray.exceptions.RayError as error:
                    yield index, {"error": " ".join(str(error).split())}
        finally:
            for left in pending:
                ray.cancel(left, force=True)
    finally:
        if ours:
            ray.shutdown()


def _perform(path: list[str], name: str, job: str) -> str:
    """Do a job in a worker that finds modules where the driver does."""
    sys.path.extend(place for place in path if place not in sys.path)
    return perform(name, job)


def _knock(address: str) -> None:
    """Ray itself tries an address where nobody listens for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise _silent(address, str(error)) from None


def _silent(address: str, reason: str) -> LawError:
    return LawError(f"no Ray answers at {address!r} ({reason})", "check the address, or say --ray local")
