"""A checkpoint: named tensors that are read one at a time, with the config and the files that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from octavo.base.errors import CheckpointError


@dataclass(frozen=True)
class Entry:
    """What is known of a tensor without reading it.

    Attributes:
        dtype: dtype of the tensor that `Checkpoint.read` returns.
        shape: its shape.
        nbytes: its size in memory, in bytes.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model on disk. `open_checkpoint` makes one; nothing is kept open or mapped between reads.

    Attributes:
        source: the directory or file it was opened from.
        entries: what is known of each tensor, by Hugging Face name, in sorted order.
        config: the Hugging Face config (`config.json`).
    """

    source: Path
    entries: Mapping[str, Entry]
    config: Mapping[str, Any]
    _read: Callable[[str], Tensor]
    _sidecars: Callable[[], tuple[Path, ...]]
    _fingerprint: Callable[[], str]

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names, sorted."""
        return tuple(self.entries)

    def entry(self, name: str) -> Entry:
        """What is known of tensor `name`.

        Raises:
            CheckpointError: there is no such tensor.
        """
        try:
            return self.entries[name]
        except KeyError:
            raise CheckpointError(
                f"{self.source} has no tensor {name!r}", "see `octavo inspect` for its names"
            ) from None

    def read(self, name: str) -> Tensor:
        """Read tensor `name`, and only it, into new memory of its own.

        Raises:
            CheckpointError: there is no such tensor, or the file has changed or cannot be read.
        """
        self.entry(name)
        return self._read(name)

    @property
    def quantization(self) -> dict[str, Any] | None:
        """The config's `quantization_config`, if the checkpoint is quantized already."""
        return self.config.get("quantization_config")

    @cached_property
    def sidecars(self) -> tuple[Path, ...]:
        """The tokenizer's and generation's files, to be copied beside a model made from this one.

        Raises:
            CheckpointError: a GGUF file's tokenizer cannot be written as a Hugging Face tokenizer.
        """
        return self._sidecars()

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of the config, all headers, file sizes and samples of every tensor's bytes, not of dates or paths.

        Small tensors are hashed whole; of large ones sixteen windows are, so that a checkpoint of any size takes
        seconds. A change to a few bytes of a large tensor can therefore go unnoticed; another training step cannot.
        """
        return self._fingerprint()
