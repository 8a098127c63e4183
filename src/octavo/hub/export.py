"""Write a model in a form that other programs read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from octavo.base.errors import OctavoError
from octavo.base.progress import SILENT, Progress
from octavo.checkpoints import CheckpointWriter
from octavo.hub.stored import StoredModel, open_stored

TARGETS = ("safetensors-bf16", "gguf")


def export(source: str | Path, out: str | Path, to: str = "safetensors-bf16", *, progress: Progress = SILENT) -> Path:
    """Write the model in `source` to `out`, tensor by tensor, and return where it is.

    Args:
        source: an octavo directory, or a dense model that octavo can open.
        out: for "safetensors-bf16" a directory, for "gguf" a file; it must not exist.
        to: "safetensors-bf16": a plain Hugging Face directory, every floating tensor rounded to bfloat16;
            "gguf": a llama.cpp file, of formats that GGUF has exactly, values equal bit for bit.
        progress: told of each tensor.

    Raises:
        OctavoError: an unknown target; for GGUF, a format, architecture or tokenizer that GGUF cannot express.
        CheckpointError: the source is damaged.
        OutputError: `out` exists or cannot be written.
    """
    if to not in TARGETS:
        raise OctavoError(f"octavo does not export to {to!r}", f"choose {' or '.join(TARGETS)}")
    model = open_stored(source)
    if to == "gguf":
        from octavo.hub.gguf_file import write_gguf

        return write_gguf(model, Path(out), progress)
    return _write_bf16(model, Path(out), progress)


def _write_bf16(model: StoredModel, out: Path, progress: Progress) -> Path:
    key = hashlib.sha256(f"safetensors-bf16 {model.checkpoint.fingerprint}".encode()).hexdigest()
    with CheckpointWriter(out, key, progress=progress) as writer:
        for name in progress.track(model.names, "Exporting", len(model.names)):
            if not writer.done(name):
                value = model.dense(name)
                writer.write(name, {"": value.to(torch.bfloat16) if value.is_floating_point() else value})
        writer.finish(model.dense_config(torch.bfloat16), model.checkpoint.sidecars)
    return out
