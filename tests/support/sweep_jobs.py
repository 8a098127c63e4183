"""Jobs of a sweep that do as they are told: end well, fail, or die."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any


def square(job: dict[str, Any]) -> dict[str, Any]:
    """The square of `x`; leaves a mark in `marks`, so that it can be seen how often it ran."""
    if "marks" in job:
        with (Path(job["marks"]) / f"{job['x']}").open("a") as file:
            file.write("x")
    match job.get("do"):
        case "raise":
            raise ValueError(f"{job['x']} is not welcome")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "memory":
            raise MemoryError("no room")
        case "nonsense":
            return {"square": object()}
        case "wait":
            time.sleep(60)
    return {"square": job["x"] ** 2, "process": os.getpid()}


def threads(job: dict[str, Any]) -> dict[str, Any]:
    """How many threads this process was given."""
    return {"threads": os.environ["OMP_NUM_THREADS"]}
