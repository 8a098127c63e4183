"""A GGUF file as a checkpoint with Hugging Face names."""

from __future__ import annotations

import json
import math
import tempfile
from functools import cache
from pathlib import Path

from torch import Tensor

from octavo.base.errors import CheckpointError
from octavo.checkpoints.checkpoint import Checkpoint, Entry
from octavo.checkpoints.fingerprint import fingerprint
from octavo.checkpoints.gguf.header import Header, read_header
from octavo.checkpoints.gguf.names import hugging_face_name, make_config, restore_rotary_rows, rotary_heads
from octavo.checkpoints.gguf.tokenizer import tokenizer_files
from octavo.checkpoints.gguf.types import read_blocks


def open_gguf(path: Path) -> Checkpoint:
    """Open the GGUF file `path`; its tensors are decoded one at a time when read, to float32 unless stored as floats.

    Raises:
        CheckpointError: damaged, truncated, of an unread architecture, or with a tensor of unknown name or type.
    """
    header = read_header(path)
    config = make_config(header)
    stored = {}
    for name in header.tensors:
        renamed = hugging_face_name(name)
        if renamed is None:
            raise CheckpointError(
                f"{path} has the unexpected tensor {name!r}", "give the original Hugging Face directory"
            )
        heads = rotary_heads(name, config)
        if heads is not None and header.tensors[name].shape[0] % (2 * heads):
            raise CheckpointError(f"tensor {name!r} in {path} does not divide into {heads} heads", "fetch it again")
        stored[renamed] = name

    def read(name: str) -> Tensor:
        place = header.tensors[stored[name]]
        tensor = read_blocks(path, place.begin, place.type, place.shape, name)
        heads = rotary_heads(stored[name], config)
        return tensor if heads is None else restore_rotary_rows(tensor, heads)

    spans = [(0, header.data_start)] + [(t.begin, t.begin + t.nbytes) for t in header.tensors.values()]
    return Checkpoint(
        source=path,
        entries={name: _entry(header, stored[name]) for name in sorted(stored)},
        config=config,
        _read=read,
        _sidecars=lambda: _write_sidecars(path),
        _fingerprint=lambda: fingerprint(config, [(path.name, path, spans)]),
    )


def _entry(header: Header, name: str) -> Entry:
    place = header.tensors[name]
    return Entry(place.type.dtype, place.shape, math.prod(place.shape) * place.type.dtype.itemsize)


@cache
def _folder(path: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for the tokenizer of `path`, deleted when the process ends."""
    return tempfile.TemporaryDirectory(prefix="octavo-tokenizer-")


def _write_sidecars(path: Path) -> tuple[Path, ...]:
    folder = Path(_folder(path).name)
    for name, value in tokenizer_files(read_header(path)).items():
        text = (
            value if isinstance(value, str) else json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        )
        (folder / name).write_text(text, encoding="utf-8")
    return tuple(sorted(folder.iterdir()))
