"""JSON from files nobody vouches for: bounded, without duplicate keys, and always an object at the top."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from octavo.base.errors import CheckpointError

MAX_BYTES = 100_000_000


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `data`; `where` names its origin in errors.

    Raises:
        CheckpointError: not UTF-8, not JSON, a duplicate key, nested too deep, not an object, or too long.
    """
    if len(data) > MAX_BYTES:
        raise CheckpointError(f"{where} is longer than {MAX_BYTES} bytes", "fetch the checkpoint again")
    try:
        # Encoding again refuses lone surrogates, which JSON can spell but no file name or header can hold.
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not valid JSON ({error})", "fetch the checkpoint again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} is not a JSON object", "fetch the checkpoint again")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`.

    Raises:
        CheckpointError: as `parse_object`, or the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error.strerror})", "check the path and its permissions") from error
    return parse_object(data, str(path))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r} appears twice")
            seen.add(key)
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
