"""What a sweep has done so far: a file of JSON lines, one a job, synced as each is written.

A line is `{"key", "job", "result", "seconds", "cpu_seconds"}` or, for a job that failed, `{"key", "job", "error"}`. The
key is a hash of the job and of the function that does it. A line that a crash cut short is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from octavo.checkpoints.durable import disk_errors, sync_directory

NAME = "journal.jsonl"


def key_of(function: str, job: dict[str, Any]) -> str:
    """What tells a job from all others."""
    text = json.dumps([function, job], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Journal:
    """The journal of a directory, which one process at a time may hold."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self.lines: dict[str, dict[str, Any]] = {}
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with disk_errors(self.path), self.path.open("r+b") as file:
                file.truncate(len(whole))
        for line in whole.splitlines():
            held = json.loads(line)
            self.lines[held["key"]] = held

    def result(self, key: str) -> dict[str, Any] | None:
        """The result of a finished job."""
        return self.lines.get(key, {}).get("result")

    def append(self, key: str, job: dict[str, Any], outcome: dict[str, Any]) -> None:
        """Note what became of a job, before anything else happens."""
        line = {"key": key, "job": job, **outcome}
        with disk_errors(self.path):
            new = not self.path.exists()
            with self.path.open("ab") as file:
                file.write(json.dumps(line).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if new:
                sync_directory(self.path.parent)
        self.lines[key] = line
