"""Calibration is the longest part of a run, so that an interrupted run must not lose it.

It is kept beside the unfinished output, under a key that names everything it depends on, and read back bit for bit:
the resumed run then draws up the same plan and makes the same bytes. A finished run removes it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from octavo.base.errors import BudgetError
from octavo.base.progress import Progress
from octavo.calibrate.text import default_text, read_text
from octavo.checkpoints import Checkpoint
from octavo.compress.notes import read_note, write_note
from octavo.compress.rounding.layers import with_conditional_importance
from octavo.compress.sensitivity import COUNT, LENGTH, UNSEEN, Sensitivity, calibrate
from octavo.formats import Importance


def remembered_sensitivity(
    source: str | Path,
    checkpoint: Checkpoint,
    out: Path | None,
    sensitivity: str | Sensitivity,
    calibration: str | Path | None,
    seed: int,
    device: str,
    progress: Progress,
    feedback: bool = False,
    text: int = 1,
) -> Sensitivity:
    """The sensitivity asked for, from the notes of an interrupted run to `out` where there are any.

    With `feedback`, a sensitivity that comes of a text has the conditional importance of error feedback too. The other
    arguments are those of `calibrate`.

    Raises:
        BudgetError: the kind of sensitivity is unknown.
        ModelError: see `calibrate`.
        OutputError: the notes cannot be written.
    """

    def completed(known: Sensitivity) -> Sensitivity:
        if not feedback:
            return replace(known, conditional={}) if known.conditional else known
        if known.conditional or not known.strengths:
            return known
        return with_conditional_importance(source, known, device, progress)

    if isinstance(sensitivity, Sensitivity):
        return completed(sensitivity)
    if sensitivity == "uniform":
        return Sensitivity({})
    if sensitivity != "fisher":
        raise BudgetError(f"unknown sensitivity {sensitivity!r}", "choose fisher or uniform")
    if out is None:
        return completed(calibrate(source, calibration, seed, device, progress, text))
    read = default_text() if calibration is None else read_text(Path(calibration))
    parts = [checkpoint.fingerprint, read, seed, LENGTH, text * COUNT, UNSEEN, device]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    path = notes_path(out)
    known = _read(path, key)
    if known is None:
        known = calibrate(source, calibration, seed, device, progress, text)
        _write(path, key, known)
    whole = completed(known)
    if len(whole.conditional) > len(known.conditional):
        _write(path, key, whole)
    return whole


def notes_path(out: Path) -> Path:
    """Where a run to `out` keeps its calibration."""
    return out.with_name(f".{out.name}.calibration")


def forget(out: Path) -> None:
    """Remove the notes of a finished run."""
    notes_path(out).unlink(missing_ok=True)


def partial_path(out: Path) -> Path:
    """Where a run to `out` keeps its unfinished work."""
    return out.with_name(f".{out.name}.partial")


def _read(path: Path, key: str) -> Sensitivity | None:
    note = read_note(path, key)
    if note is None:
        return None
    tensors, facts = note
    try:
        parts: dict[str, dict[str, Tensor]] = {
            "row": {},
            "column": {},
            "strength": {},
            "conditional": {},
            "sequences": {},
        }
        for entry, tensor in tensors.items():
            name, part = entry.rsplit("/", 1)
            parts[part][name] = tensor
        found = {name: Importance(row, parts["column"][name]) for name, row in parts["row"].items()}
        conditional = {name: Importance(found[name].row, column) for name, column in parts["conditional"].items()}
        return Sensitivity(
            found,
            tuple(json.loads(facts["unreached"])),
            int(facts["tokens"]),
            parts["sequences"]["calibration"],
            parts["strength"],
            conditional,
            json.loads(facts["damping"]),
        )
    except (KeyError, ValueError):
        return None  # noted by another release: calibrate again


def _write(path: Path, key: str, sensitivity: Sensitivity) -> None:
    tensors = {}
    for name, value in sensitivity.importance.items():
        tensors[f"{name}/row"], tensors[f"{name}/column"] = value.row, value.column
    for name, strength in sensitivity.strengths.items():
        tensors[f"{name}/strength"] = strength
    for name, value in sensitivity.conditional.items():
        tensors[f"{name}/conditional"] = value.column
    if sensitivity.sequences is not None:
        assert isinstance(sensitivity.sequences, Tensor)
        tensors["calibration/sequences"] = sensitivity.sequences
    facts = {
        "unreached": json.dumps(sensitivity.unreached),
        "tokens": str(sensitivity.tokens),
        "damping": json.dumps(dict(sensitivity.damping)),
    }
    write_note(path, key, tensors, facts)
