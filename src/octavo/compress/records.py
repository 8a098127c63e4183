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
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["key"] == key:
            return record["value"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        # No record, or a damaged one: the work is done again.
        pass
    text = json.dumps({"key": key, "value": make()})
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.partial")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
    return json.loads(text)["value"]
