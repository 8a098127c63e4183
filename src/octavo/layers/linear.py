"""Linear layers and look-ups over weights that are dense or packed: the one place where a weight meets its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from octavo.formats.product import FEW, exact, fused
from octavo.formats.rows import SLAB, select_rows, slabs
from octavo.formats.stacking import stack, stackable
from octavo.formats.tensor import QuantizedTensor
from octavo.kernels import decoding as kernels
from octavo.kernels.product import Product as Packed

Weight = Tensor | QuantizedTensor
"""A matrix [rows, columns], dense or packed."""


Product = Callable[[Tensor], Tensor]
"""From inputs [batch, columns] to inputs · weightᵀ [batch, rows], of the dtype of the inputs."""


def product(weight: Weight) -> Product:
    """The product with a matrix, prepared once for all inputs."""
    packed = None if isinstance(weight, Tensor) else fused(weight)
    return partial(_by_slabs, weight) if packed is None else partial(_packed, packed, weight)


def _packed(packed: Packed, weight: Weight, inputs: Float[Tensor, "batch columns"]) -> Tensor:
    if len(inputs) > FEW:
        return _by_slabs(weight, inputs)
    return packed(exact(inputs)).to(inputs.dtype)


def _by_slabs(weight: Weight, inputs: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch rows"]:
    if isinstance(weight, Tensor) and weight.dtype == inputs.dtype:
        return F.linear(inputs, weight)
    return torch.cat([F.linear(inputs, slab.to(inputs.dtype)) for slab in _slabs(weight)], dim=-1)


def _slabs(weight: Weight) -> Iterator[Float[Tensor, "_ columns"]]:
    """A matrix, a few rows at a time; packed ones in float32, where their format lets rows be cut out."""
    height = max(1, SLAB // weight.shape[1])
    if isinstance(weight, Tensor):
        yield from weight.split(height)
        return
    yield from slabs(weight, height)


@dataclass(frozen=True, eq=False)
class Linear:
    """x · Wᵀ + b, where W may be several matrices on top of each other: q, k and v share one product.

    Attributes:
        pieces: the matrices, in order.
        bias: of all rows; None for none.
    """

    pieces: tuple[Weight, ...]
    bias: Float[Tensor, " rows"] | None = None

    @cached_property
    def _products(self) -> tuple[Product, ...]:
        return tuple(map(product, self.pieces))

    def __call__(self, inputs: Float[Tensor, "*batch columns"]) -> Float[Tensor, "*batch rows"]:
        flat = inputs.reshape(-1, inputs.shape[-1])
        found = [product(flat) for product in self._products]
        outputs = found[0] if len(found) == 1 else torch.cat(found, dim=-1)
        if self.bias is not None:
            outputs = outputs + self.bias
        return outputs.reshape(*inputs.shape[:-1], outputs.shape[-1])

    def between(
        self, inputs: Float[Tensor, "most columns"], outputs: Float[Tensor, "most rows"]
    ) -> Callable[[int], None]:
        """The product prepared for memory that stays where it is: a function of how many of its first rows are in use.

        The step of one token spends its time in products of microseconds, where slices and results cost as much.
        """
        piece = self.pieces[0]
        steps = inputs.dtype == torch.float32 and inputs.device.type == "cpu"
        if steps and len(self.pieces) == 1 and isinstance(piece, Tensor):
            return kernels.dense(piece, self.bias, inputs, outputs)
        views = [(inputs[:rows], outputs[:rows]) for rows in range(len(inputs) + 1)]

        def run(rows: int) -> None:
            given, out = views[rows]
            out.copy_(self(given))

        return run

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
