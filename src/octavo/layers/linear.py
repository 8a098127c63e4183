"""Linear layers and look-ups over weights that are dense or packed: the one place where a weight meets its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from octavo.formats.rows import select_rows, slice_rows
from octavo.formats.stacking import stack, stackable
from octavo.formats.tensor import QuantizedTensor

SLAB = 1 << 21
"""Weights dequantized at once: 8 MiB in float32. Larger pieces are fetched from the system each time anew."""

Weight = Tensor | QuantizedTensor
"""A matrix [rows, columns], dense or packed."""


def product(weight: Weight, inputs: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch rows"]:
    """inputs · weightᵀ, in the dtype of the inputs."""
    if isinstance(weight, Tensor):
        return F.linear(inputs, weight)
    return torch.cat([F.linear(inputs, slab.to(inputs.dtype)) for slab in _slabs(weight)], dim=-1)


def _slabs(weight: QuantizedTensor) -> Iterator[Float[Tensor, "_ columns"]]:
    """A packed matrix in float32, a few rows at a time where its format lets them be cut out."""
    rows, columns = weight.shape
    height = max(1, SLAB // columns)
    for start in range(0, rows, height):
        slab = slice_rows(weight, start, min(rows, start + height))
        if slab is None:
            # It is the format that cannot be cut, so this is the first slab.
            yield weight.dequantize()
            return
        yield slab


@dataclass(frozen=True, eq=False)
class Linear:
    """x · Wᵀ + b, where W may be several matrices on top of each other: q, k and v share one product.

    Attributes:
        pieces: the matrices, in order.
        bias: of all rows; None for none.
    """

    pieces: tuple[Weight, ...]
    bias: Float[Tensor, " rows"] | None = None

    def __call__(self, inputs: Float[Tensor, "*batch columns"]) -> Float[Tensor, "*batch rows"]:
        flat = inputs.reshape(-1, inputs.shape[-1])
        found = [product(piece, flat) for piece in self.pieces]
        outputs = found[0] if len(found) == 1 else torch.cat(found, dim=-1)
        if self.bias is not None:
            outputs = outputs + self.bias
        return outputs.reshape(*inputs.shape[:-1], outputs.shape[-1])

    def into(self, inputs: Float[Tensor, "batch columns"], outputs: Float[Tensor, "batch rows"]) -> None:
        """Write what a call returns into memory that is there: half the calls of torch, in the step of one token."""
        if len(self.pieces) == 1 and isinstance(self.pieces[0], Tensor):
            if self.bias is None:
                torch.mm(inputs, self.pieces[0].t(), out=outputs)
            else:
                torch.addmm(self.bias, inputs, self.pieces[0].t(), out=outputs)
        else:
            outputs.copy_(self(inputs))

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads."""
        return sum(map(nbytes, self.pieces)) + (0 if self.bias is None else self.bias.nbytes)


def stacked(pieces: list[Weight]) -> tuple[Weight, ...]:
    """The same matrices, those put together that can be: dense ones, and packed ones of one format by rows."""
    found = pieces[:1]
    for piece in pieces[1:]:
        last = found[-1]
        if isinstance(last, Tensor) and isinstance(piece, Tensor):
            found[-1] = torch.cat([last, piece])
        elif (
            isinstance(last, QuantizedTensor)
            and isinstance(piece, QuantizedTensor)
            and last.format == piece.format
            and stackable(last.format, last.shape)
        ):
            found[-1] = stack(last, piece)
        else:
            found.append(piece)
    return tuple(found)


def look_up(weight: Weight, index: Int[Tensor, "*batch"], dtype: torch.dtype) -> Float[Tensor, "*batch columns"]:
    """Rows of a matrix."""
    if isinstance(weight, Tensor):
        return F.embedding(index, weight).to(dtype)
    chosen = select_rows(weight, index.reshape(-1))
    rows = weight.dequantize()[index.reshape(-1)] if chosen is None else chosen
    return rows.to(dtype).reshape(*index.shape, weight.shape[1])


def nbytes(weight: Weight) -> int:
    """Bytes that a weight takes."""
    parts = [weight] if isinstance(weight, Tensor) else weight.parts.values()
    return sum(part.nbytes for part in parts)
