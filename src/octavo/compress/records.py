"""Finished pieces of work, remembered as JSON beside what they produced, so that they are not done again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def remembered(path: Path, key: str, make: Callable[[], Any]) -> Any:
    """The JSON value that an earlier call left at `path` under the same `key`, else what `make` returns, left there.

    A record of another key, or one that cannot be read, is replaced; an interrupted call leaves none.
    """
    found = recalled(path, key)
    return remember(path, key, make()) if found is None else found


def recalled(path: Path, key: str) -> Any:
    """The JSON value that lies at `path` under `key`; None where there is none, or a damaged one."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record["value"] if record["key"] == key else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def remember(path: Path, key: str, value: Any) -> Any:
    """Leave a JSON value at `path` under `key`; as it will be read again."""
    text = json.dumps({"key": key, "value": value})
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.partial")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
    return json.loads(text)["value"]
