"""Calibration is the longest part of a run, so that an interrupted run must not lose it.

It is kept beside the unfinished output, under a key that names everything it depends on, and read back bit for bit:
the resumed run then draws up the same plan and makes the same bytes. A finished run removes it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from octavo.base.errors import BudgetError, OutputError
from octavo.base.progress import Progress
from octavo.calibrate.text import default_text, read_text
from octavo.checkpoints import Checkpoint
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
) -> Sensitivity:
    """The sensitivity asked for, from the notes of an interrupted run to `out` where there are any.

    With `feedback`, a sensitivity that comes of a text has the conditional importance of error feedback too.

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
        return completed(calibrate(source, calibration, seed, device, progress))
    text = default_text() if calibration is None else read_text(Path(calibration))
    parts = [checkpoint.fingerprint, text, seed, LENGTH, COUNT, UNSEEN, device]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    path = notes_path(out)
    known = _read(path, key)
    if known is None:
        known = calibrate(source, calibration, seed, device, progress)
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
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            if facts.get("key") != key:
                return None
            keys = [name.rsplit("/", 1) for name in file.keys()]  # noqa: SIM118 (not a mapping)
            found = {
                name: Importance(file.get_tensor(f"{name}/row"), file.get_tensor(f"{name}/column"))
                for name, part in keys
                if part == "row"
            }
            strengths = {name: file.get_tensor(f"{name}/strength") for name, part in keys if part == "strength"}
            conditional = {
                name: Importance(found[name].row, file.get_tensor(f"{name}/conditional"))
                for name, part in keys
                if part == "conditional"
            }
            sequences = file.get_tensor("calibration/sequences")
        unreached = tuple(json.loads(facts["unreached"]))
        return Sensitivity(found, unreached, int(facts["tokens"]), sequences, strengths, conditional)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None  # none, or cut short by a kill: calibrate again


def _write(path: Path, key: str, sensitivity: Sensitivity) -> None:
    tensors = {}
    for name, value in sensitivity.importance.items():
        tensors[f"{name}/row"], tensors[f"{name}/column"] = value.row.contiguous(), value.column.contiguous()
    for name, strength in sensitivity.strengths.items():
        tensors[f"{name}/strength"] = strength
    for name, value in sensitivity.conditional.items():
        tensors[f"{name}/conditional"] = value.column.contiguous()
    if sensitivity.sequences is not None:
        tensors["calibration/sequences"] = sensitivity.sequences.contiguous()
    facts = {"key": key, "unreached": json.dumps(sensitivity.unreached), "tokens": str(sensitivity.tokens)}
    unfinished = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, unfinished, metadata=facts)
        os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:
        unfinished.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write beside {path.parent} ({error})", "free some space or choose another OUT"
        ) from error
