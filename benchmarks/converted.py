"""A dense checkpoint as a decoder would read it in another dtype or packed, without a file for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from octavo.formats import Format
from octavo.formats.tensor import QuantizedTensor
from octavo.hub.stored import StoredModel


@dataclass(frozen=True)
class Converted:
    """A dense checkpoint whose matrices are read in another dtype, or packed."""

    stored: StoredModel
    dtype: torch.dtype = torch.float32
    format: Format | None = None

    @property
    def config(self) -> Mapping[str, Any]:
        return self.stored.config

    @property
    def names(self) -> tuple[str, ...]:
        return self.stored.names

    @property
    def activations(self) -> dict[str, Any] | None:
        return self.stored.activations

    def shape(self, name: str) -> tuple[int, ...]:
        return self.stored.shape(name)

    def quantized(self, name: str) -> QuantizedTensor | None:
        packs = self.format is not None and len(self.shape(name)) == 2
        return self.format.quantize(self.stored.dense(name)) if packs and self.format else None

    def dense(self, name: str) -> Tensor:
        return self.stored.dense(name).to(self.dtype)
