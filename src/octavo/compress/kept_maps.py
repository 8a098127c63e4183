"""Learned maps, kept beside an unfinished output so that an interrupted run need not learn them again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from octavo.compress.notes import read_note, write_note
from octavo.transforms.student import LearnedMaps


def maps_path(out: Path) -> Path:
    """Where a run to `out` keeps its maps."""
    return out.with_name(f".{out.name}.maps")


def forget_maps(out: Path) -> None:
    """Remove the maps of a finished run."""
    maps_path(out).unlink(missing_ok=True)


def read_maps(out: Path, request: str, maps: LearnedMaps) -> bool:
    """Fill `maps` with those of an interrupted run that was asked for the same; whether there are any."""
    note = read_note(maps_path(out), _key(request))
    if note is None:
        return False
    try:
        maps.load_state_dict(note[0])
    except RuntimeError:
        return False  # of other maps: learn again
    return True


def write_maps(out: Path, request: str, maps: LearnedMaps) -> None:
    """Keep `maps` for a run that goes on.

    Raises:
        OutputError: they cannot be written.
    """
    write_note(maps_path(out), _key(request), maps.state_dict())


def _key(request: str) -> str:
    return hashlib.sha256(request.encode()).hexdigest()
