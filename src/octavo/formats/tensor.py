"""A quantized tensor is a handful of plain tensors, the format that reads them, and a shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from octavo.formats.format import Format


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """Codes, scales and codebook of one tensor: saved as ordinary safetensors entries, readable anywhere.

    Attributes:
        format: what the parts mean.
        shape: shape of the tensor they stand for.
        parts: plain tensors by part name, e.g. "codes", "scales", "codebook", "outlier_index", "outlier_value".
    """

    format: Format
    shape: tuple[int, ...]
    parts: Mapping[str, Tensor]

    @property
    def numel(self) -> int:
        count = 1
        for side in self.shape:
            count *= side
        return count

    @property
    def stored_bits(self) -> int:
        """Exact bits of all parts, as written to a file (headers aside)."""
        return sum(8 * part.numel() * part.element_size() for part in self.parts.values())

    @property
    def bits_per_weight(self) -> float:
        return self.stored_bits / self.numel

    def dequantize(self) -> Tensor:
        """The tensor these parts stand for, float32."""
        return self.format.dequantize(self)
