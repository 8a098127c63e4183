"""What formats whose codes stand for vectors share: consecutive columns of a row, the last vector padded with zeros."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.formats.importance import Importance
from octavo.formats.rounding import Rounder
from octavo.formats.scaling import Scaling
from octavo.formats.tensor import QuantizedTensor
from octavo.kernels import packed_bytes

if TYPE_CHECKING:
    from octavo.formats.format import Format

PartShape = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype of a part."""


class VectorElement(ABC):
    """An element of whole vectors. It takes part in scaling and outliers as any other, and has no entropy code."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Weights of a vector."""

    @property
    @abstractmethod
    def levels(self) -> int:
        """Size of the alphabet of each digit of a code; where widths differ, of their mean."""

    @property
    def usual_scaling(self) -> Scaling:
        """The scaling of a format string that says nothing about it."""
        return Scaling()

    def check(self, scaling: Scaling) -> None:
        """Raise FormatError for a scaling that the element cannot have."""
        if scaling.block is not None and scaling.block % self.dimension:
            raise FormatError(
                f"blocks of {scaling.block} cut vectors of {self.dimension}",
                f"write b{max(1, scaling.block // self.dimension) * self.dimension}",
            )

    def padded(self, columns: int) -> int:
        """Columns with the last vector filled up."""
        return -(-columns // self.dimension) * self.dimension

    def parts(self, scaling: Scaling, rows: int, columns: int) -> dict[str, PartShape]:
        """Every part of a matrix."""
        kind = scaling.kind
        found: dict[str, PartShape] = {
            "codes": ((packed_bytes(rows * self.padded(columns), self.levels),), torch.uint8),
            "scales": (scaling.scales_shape(rows, columns), kind.dtype),
        }
        if kind.second_level:
            found["scale"] = ((kind.second_level,), torch.float32)
        return found

    def stored_bits(self, scaling: Scaling, rows: int, columns: int) -> int:
        """Exact bits of all parts of a matrix."""
        sizes = self.parts(scaling, rows, columns).values()
        return sum(8 * dtype.itemsize * torch.Size(shape).numel() for shape, dtype in sizes)

    @abstractmethod
    def settle(self, format: Format, weights: Float[Tensor, "..."], importance: Importance | None) -> Rounder:
        """Everything but the codes (see `Format.settle`)."""

    @abstractmethod
    def take_rows(self, quantized: QuantizedTensor, index: Int[Tensor, " chosen"] | slice) -> Float32[Tensor, "_ _"]:
        """Rows of the matrix behind the parts, float32."""

    def dequantize(self, quantized: QuantizedTensor) -> Float32[Tensor, "..."]:
        """The tensor behind the parts, float32."""
        return self.take_rows(quantized, slice(None)).reshape(quantized.shape)


def as_matrix(weights: Float[Tensor, "..."]) -> Float32[Tensor, "rows columns"]:
    """All axes but the last as rows, float32."""
    return weights.detach().reshape(-1, weights.shape[-1]).float().contiguous()


def filled(values: Float[Tensor, "rows columns"], dimension: int) -> Float[Tensor, "rows filled"]:
    """Zeros after the last column, up to whole vectors."""
    return torch.nn.functional.pad(values, (0, -values.shape[1] % dimension))


def spread_scales(
    scaling: Scaling, parts: Mapping[str, Tensor], columns: slice, total: int
) -> Float32[Tensor, "rows run"]:
    """The scale of each of some columns, [1, run] or [rows, run].

    Args:
        scaling: says which weights share a scale.
        parts: "scales" and "scale".
        columns: which.
        total: columns of the matrix.
    """
    used = scaling.kind.decode(parts["scales"], parts.get("scale"))
    blocks = torch.arange(columns.start, columns.stop, device=used.device) // scaling.run(total)
    return used[:, blocks]


def in_units(values: Float[Tensor, "rows run"], scales: Float32[Tensor, "_ run"]) -> Float32[Tensor, "rows run"]:
    """Weights over their scales; zero where the scale is."""
    return torch.where(scales != 0, values / torch.where(scales != 0, scales, 1), 0)


def taken(stored: Tensor, index: Tensor | slice) -> Tensor:
    """Rows of a part; indexing copies bytes, which every dtype has, for narrow floats have no indexing kernel."""
    return stored.contiguous().view(torch.uint8)[index].contiguous().view(stored.dtype)
