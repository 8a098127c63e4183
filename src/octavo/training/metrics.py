"""What a run writes down: a line of JSON every few steps, and TensorBoard's events where they are asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from octavo.base.errors import ConfigurationError
from octavo.checkpoints.durable import disk_errors, write_durably

NAME = "metrics.jsonl"


class Metrics(Protocol):
    """Takes figures of steps."""

    def write(self, step: int, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """Appends to metrics.jsonl.

    Args:
        directory: of the run.
        step: that the run goes on from; lines of later steps, and one that was cut short, are dropped.
    """

    def __init__(self, directory: Path, step: int) -> None:
        self.path = directory / NAME
        with disk_errors(self.path):
            if self.path.exists():
                kept = [line for line in self.path.read_bytes().splitlines() if _step(line) <= step]
                write_durably(self.path, [b"".join(line + b"\n" for line in kept)])
            self._file = self.path.open("a", encoding="utf-8")

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        with disk_errors(self.path):
            self._file.write(json.dumps({"step": step, **figures}) + "\n")
            self._file.flush()

    def close(self) -> None:
        with disk_errors(self.path):
            self._file.close()


class TensorBoard:
    """Writes events for TensorBoard into the run's folder.

    Raises:
        ConfigurationError: tensorboard is not installed.
    """

    def __init__(self, directory: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigurationError("tensorboard is not installed", "pip install 'octavo[train]'") from error
        # Events of steps that are made again are hidden.
        self._writer: Any = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


def _step(line: bytes) -> float:
    """The step of a line; of one that was cut short, later than all."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
