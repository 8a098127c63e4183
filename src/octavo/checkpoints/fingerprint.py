"""Knowing a checkpoint again without reading all of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from octavo.base.errors import CheckpointError

_WINDOW = 4096
_WINDOWS = 16


def fingerprint(config: Mapping[str, Any], files: Iterable[tuple[str, Path, list[tuple[int, int]]]]) -> str:
    """Hex digest over `config` and `files`.

    Args:
        config: JSON-able settings.
        files: (name to hash, path, [begin, end) byte spans); spans up to 64 KiB are hashed whole, longer ones in
            sixteen evenly spaced windows with the first and the last bytes among them.

    Raises:
        CheckpointError: a file cannot be read.
    """
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, path, spans in files:
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                digest.update(f"\0{name}\0{size}\0".encode())
                for begin, end in spans:
                    for start, stop in _windows(begin, end):
                        file.seek(start)
                        digest.update(file.read(stop - start))
        except OSError as error:
            raise CheckpointError(f"cannot read {path} ({error.strerror})", "check the path and its disk") from error
    return digest.hexdigest()


def _windows(begin: int, end: int) -> list[tuple[int, int]]:
    if end - begin <= _WINDOW * _WINDOWS:
        return [(begin, end)]
    step = (end - begin - _WINDOW) / (_WINDOWS - 1)
    starts = [begin + int(step * i) for i in range(_WINDOWS - 1)] + [end - _WINDOW]
    return [(start, start + _WINDOW) for start in starts]
