"""A model that is transformed only to be compressed: kept beside the output until that is whole, then removed."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from octavo.base.progress import Progress
from octavo.calibrate.text import default_text, read_text
from octavo.checkpoints import open_checkpoint
from octavo.compress.remembering import partial_path
from octavo.compress.transforming import Transform, transform_checkpoint


def transformed_source(
    source: str | Path,
    out: Path,
    transform: Transform,
    calibration: str | Path | None,
    device: str,
    progress: Progress,
) -> Path:
    """The directory of the transformed model, from an interrupted run to `out` where there is one.

    Raises:
        ModelError, CheckpointError, OctavoError, OutputError: see `transform_checkpoint`.
    """
    text = default_text() if calibration is None else read_text(Path(calibration))
    parts = [open_checkpoint(source).fingerprint, asdict(transform), text, device]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    smooth = out.with_name(f".{out.name}.transformed-{key}")
    if not smooth.exists() or partial_path(smooth).exists():
        report = transform_checkpoint(
            source, smooth, transform, calibration=calibration, device=device, progress=progress
        )
        progress.message(
            f"transformed ({transform.kind}): drift before any rounding {report.drift:.3g} nats/token, largest "
            f"condition number {report.condition:.3g}"
        )
    return smooth


def forget_transformed(out: Path) -> None:
    """Remove what finished runs to `out` were made from."""
    for smooth in out.parent.glob(f".{out.name}.transformed-*"):
        shutil.rmtree(smooth)
