"""Learned maps, kept beside an unfinished output so that an interrupted run need not learn them again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from octavo.base.errors import OutputError
from octavo.transforms.student import LearnedMaps


def maps_path(out: Path) -> Path:
    """Where a run to `out` keeps its maps."""
    return out.with_name(f".{out.name}.maps")


def forget_maps(out: Path) -> None:
    """Remove the maps of a finished run."""
    maps_path(out).unlink(missing_ok=True)


def read_maps(out: Path, request: str, maps: LearnedMaps) -> bool:
    """Fill `maps` with those of an interrupted run that was asked for the same; whether there are any."""
    try:
        with safe_open(maps_path(out), framework="pt") as file:
            if (file.metadata() or {}).get("key") != _key(request):
                return False
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        maps.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError):
        return False  # none, or cut short by a kill: learn again
    return True


def write_maps(out: Path, request: str, maps: LearnedMaps) -> None:
    """Keep `maps` for a run that goes on.

    Raises:
        OutputError: they cannot be written.
    """
    path = maps_path(out)
    unfinished = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {name: value.contiguous() for name, value in maps.state_dict().items()}
        save_file(state, unfinished, metadata={"key": _key(request)})
        os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:
        unfinished.unlink(missing_ok=True)
        raise OutputError(f"cannot write beside {out} ({error})", "free some space or choose another OUT") from error


def _key(request: str) -> str:
    return hashlib.sha256(request.encode()).hexdigest()
