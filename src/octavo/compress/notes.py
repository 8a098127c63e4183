"""Tensors noted beside an unfinished output, so that an interrupted run need not find them again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from octavo.base.errors import OutputError


def read_note(path: Path, key: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """The tensors and facts noted at `path` under `key`; None where there are none, or a kill cut them short."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            if facts.get("key") != key:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError):
        return None


def write_note(path: Path, key: str, tensors: Mapping[str, Tensor], facts: Mapping[str, str] | None = None) -> None:
    """Note tensors and facts at `path` under `key`, whole or not at all.

    Raises:
        OutputError: they cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, unfinished, metadata={**(facts or {}), "key": key})
        os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:
        unfinished.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write beside {path.parent} ({error})", "free some space or choose another OUT"
        ) from error
