"""The tensors of a checkpoint that may be quantized, read one at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from octavo.base.errors import CheckpointError
from octavo.checkpoints import Checkpoint, open_checkpoint
from octavo.formats.format import Format
from octavo.formats.tensor import QuantizedTensor
from octavo.hub import ENTRIES, QUANT_METHOD, VERSION
from octavo.hub.headers import Header
from octavo.hub.parts import check_parts


@dataclass(frozen=True)
class StoredModel:
    """A dense or octavo checkpoint, by the names of its tensors rather than of their parts.

    Attributes:
        checkpoint: the checkpoint itself.
        entries: config.json's entry for each quantized tensor; empty for a dense checkpoint.
        parts: the names of each quantized tensor's parts.
        names: the tensors' names, sorted.
    """

    checkpoint: Checkpoint
    entries: dict[str, dict[str, Any]]
    parts: dict[str, tuple[str, ...]]
    names: tuple[str, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json."""
        return self.checkpoint.config

    def shape(self, name: str) -> tuple[int, ...]:
        if name in self.entries:
            return tuple(int(side) for side in self.entries[name]["shape"])
        return self.checkpoint.entry(name).shape

    def quantized(self, name: str) -> QuantizedTensor | None:
        """Tensor `name` as it is stored; None if it is dense.

        Raises:
            CheckpointError: its parts are missing or not of the sizes and dtypes its format has.
        """
        if name not in self.entries:
            return None
        fmt = Format.parse(self.entries[name]["format"])
        parts = {part: self.checkpoint.read(f"{name}.{part}") for part in self.parts[name]}
        headers = {part: Header(tuple(value.shape), value.dtype) for part, value in parts.items()}
        check_parts(name, fmt, self.shape(name), headers)
        return QuantizedTensor(fmt, self.shape(name), parts)

    def dense(self, name: str) -> Tensor:
        """Tensor `name` as dense values: float32 if it is quantized, else as it is stored."""
        quantized = self.quantized(name)
        return self.checkpoint.read(name) if quantized is None else quantized.dequantize()

    @property
    def activations(self) -> dict[str, Any] | None:
        """config.json's entry on the inputs of linear layers, None if they are taken as they are."""
        return (self.checkpoint.quantization or {}).get("activations")

    def dense_config(self, dtype: torch.dtype | None = None) -> dict[str, Any]:
        """config.json of the same model with no tensor quantized, its tensors of `dtype`."""
        config = {key: value for key, value in self.checkpoint.config.items() if key != "quantization_config"}
        if dtype is not None:
            config.pop("torch_dtype", None)
            config["dtype"] = str(dtype).removeprefix("torch.")
        if self.activations is not None:
            entry = {"quant_method": QUANT_METHOD, "version": VERSION, "tensors": {}, "activations": self.activations}
            config["quantization_config"] = entry
        return config


def open_stored(source: str | Path) -> StoredModel:
    """Open a checkpoint whose tensors may be quantized by octavo.

    Raises:
        CheckpointError: it cannot be read, or another tool has quantized it.
    """
    return stored_model(open_checkpoint(source))


def stored_model(checkpoint: Checkpoint) -> StoredModel:
    """An open checkpoint by the names of its tensors; see `open_stored`."""
    source = checkpoint.source
    config = checkpoint.quantization or {}
    if config and config.get("quant_method") != QUANT_METHOD:
        raise CheckpointError(
            f"{source} is quantized by {config.get('quant_method')!r}, which octavo does not read",
            "give the original model",
        )
    if config and config.get("version") != VERSION:
        raise CheckpointError(
            f"{source} has octavo layout version {config.get('version')!r}, and this release reads version {VERSION}",
            "update octavo",
        )
    if unknown := sorted(config.keys() - ENTRIES):
        raise CheckpointError(f"{source} has the quantization entry {unknown[0]!r}, not known here", "update octavo")
    entries = dict(config.get("tensors", {}))
    parts: dict[str, list[str]] = defaultdict(list)
    names = set(entries)
    for entry in checkpoint.names:
        name, _, part = entry.rpartition(".")
        if name in entries:
            parts[name].append(part)
        else:
            names.add(entry)
    return StoredModel(checkpoint, entries, {n: tuple(parts[n]) for n in entries}, tuple(sorted(names)))
