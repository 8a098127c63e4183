"""From what a user writes (a directory, a GGUF file, an embedded or a hub name) to a checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

from octavo.base.errors import CheckpointError
from octavo.checkpoints.checkpoint import Checkpoint
from octavo.checkpoints.directory import open_directory
from octavo.checkpoints.embedded import embedded_names, find_embedded
from octavo.checkpoints.gguf.opening import open_gguf

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "LICENSE*", "NOTICE*"]


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Open a Hugging Face directory, a GGUF file, an embedded model's name (`smollm2-135m`), or a hub name.

    Raises:
        CheckpointError: there is no such thing, it is damaged, or of a kind octavo does not read.
        OctavoError: an embedded model's package is not installed.
    """
    path = resolve_source(source)
    if path.is_dir():
        return open_directory(path)
    if path.suffix == ".gguf":
        return open_gguf(path)
    if path.suffix == ".safetensors":
        raise CheckpointError(f"{path} is one file of a model", "give the directory that holds it and its config.json")
    raise CheckpointError(f"{path} is neither a directory nor a GGUF file", "give a Hugging Face directory or a .gguf")


def resolve_source(source: str | Path) -> Path:
    """The directory or file that `source` means; a hub name is fetched (or found in the Hugging Face cache).

    Raises:
        CheckpointError, OctavoError: as `open_checkpoint`.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    name = str(source)
    if embedded := find_embedded(name):
        return embedded
    if isinstance(source, Path) or path.suffix in (".gguf", ".safetensors") or not _HUB_NAME.fullmatch(name):
        raise CheckpointError(f"there is no file or directory {name}", "check the path")
    return _fetch(name)


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except Exception as error:
        # The hub client raises its own errors, requests', httpx's and ValueErrors; to the user they are one thing.
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        known = ", ".join(embedded_names())
        raise CheckpointError(
            f"{name!r} is no path, no embedded model ({known}), and could not be fetched from the hub ({line})",
            "check the name, or give a directory if you are offline",
        ) from error
