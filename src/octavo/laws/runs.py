"""Finished training runs as the precision law sees them, and the file that lists them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from octavo.base.errors import LawError

FIELDS = ("parameters", "tokens", "bits", "loss")


@dataclass(frozen=True)
class Run:
    """One trained model.

    Attributes:
        parameters: N, of the body; embeddings do not count.
        tokens: D, seen in training.
        bits: P, of a weight of the body; 16 for one that is not quantized.
        loss: held-out loss, in nats per token.
    """

    parameters: float
    tokens: float
    bits: float
    loss: float

    def __post_init__(self) -> None:
        for field in FIELDS:
            value = getattr(self, field)
            if not (math.isfinite(value) and value > 0):
                raise LawError(f"a run's {field} is {value}", "all figures of a run must be positive")


def read_runs(path: Path) -> list[Run]:
    """Runs from a file of JSON lines with `parameters`, `tokens`, `bits` and `loss`; other fields are left alone.

    A sweep's journal is such a file too: lines of failed jobs are skipped, and fields are sought in job and result.

    Raises:
        LawError: a line is no JSON object or lacks a figure.
    """
    runs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            held = json.loads(line)
            if "error" in held:
                continue
            if isinstance(held.get("result"), dict):
                held = {**held["job"], **held["result"]}
            runs.append(Run(*(float(held[field]) for field in FIELDS)))
        except LawError as error:
            raise LawError(f"{path}, line {number}: {error.problem}", error.remedy) from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            needs = f"each line needs {', '.join(FIELDS)}"
            raise LawError(f"{path}, line {number} is no run ({error})", needs) from None
    if not runs:
        raise LawError(f"{path} holds no runs", f"write a line with {', '.join(FIELDS)} for each")
    return runs
