"""Linear layers over weights that are dense or packed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from octavo.base.arithmetic import Arithmetic
from octavo.formats.product import FEW, exact, fused
from octavo.formats.rows import SLAB, pieces, slabs
from octavo.formats.stacking import stack, stackable
from octavo.formats.tensor import QuantizedTensor
from octavo.kernels import decoding as kernels
from octavo.kernels.backends import products_on_gpu
from octavo.kernels.product import Product as Packed
from octavo.kernels.product import between, gated

Weight = Tensor | QuantizedTensor
"""A matrix [rows, columns], dense or packed."""


Product = Callable[[Tensor], Tensor]
"""From inputs [batch, columns] to inputs · weightᵀ [batch, rows], of the dtype of the inputs."""


def _packed(packed: Packed, weight: Weight, arithmetic: Arithmetic, inputs: Float[Tensor, "batch columns"]) -> Tensor:
    if len(inputs) > FEW and not (packed.suits_many(arithmetic) or products_on_gpu(inputs)):
        return _by_slabs(packed, weight, inputs)
    return packed(exact(inputs), arithmetic).to(inputs.dtype)


def _by_slabs(
    packed: Packed | None, weight: Weight, inputs: Float[Tensor, "batch columns"]
) -> Float[Tensor, "batch rows"]:
    if isinstance(weight, Tensor) and weight.dtype == inputs.dtype:
        return F.linear(inputs, weight)
    found = torch.empty(len(inputs), weight.shape[0], dtype=inputs.dtype, device=inputs.device)
    start = 0
    for slab in _slabs(packed, weight, inputs.dtype):
        found[:, start : start + len(slab)] = F.linear(inputs, slab)
        start += len(slab)
    return found


def _slabs(packed: Packed | None, weight: Weight, dtype: torch.dtype) -> Iterator[Float[Tensor, "_ columns"]]:
    """A matrix in a dtype, a few rows at a time where its format lets them be cut out."""
    rows, columns = weight.shape
    height = max(1, SLAB // columns)
    if isinstance(weight, Tensor):
        yield from (slab.to(dtype) for slab in weight.split(height))
        return
    if packed is not None and packed.dense(0, 0, dtype) is not None:
        for start in range(0, rows, height):
            slab = packed.dense(start, min(rows, start + height), dtype)
            assert slab is not None
            yield slab
        return
    yield from (slab.to(dtype) for slab in slabs(weight, height))


def _by_pieces(weight: QuantizedTensor, inputs: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch rows"]:
    """A product with what is dequantized piece by piece; in a step, each input's is that of it alone."""
    found = torch.zeros(len(inputs), weight.shape[0], device=inputs.device)
    for piece in pieces(weight, 0, weight.shape[0]):
        taken, values = inputs[:, piece.columns].contiguous(), piece.values.to(inputs.device, inputs.dtype)
        if _steps(inputs):
            part = torch.empty(len(taken), len(values))
            kernels.dense(values, None, taken, part)(len(taken))
        else:
            part = F.linear(taken, values)
        found[:, piece.rows] += part
    return found.to(inputs.dtype)


def _steps(inputs: Tensor) -> bool:
    """Whether inputs are those of a step whose operations are prepared."""
    return inputs.dtype == torch.float32 and inputs.device.type == "cpu"


@dataclass(frozen=True, eq=False)
class Linear:
    """x · Wᵀ + b, where W may be several matrices on top of each other: q, k and v share one product.

    Attributes:
        pieces: the matrices, in order.
        bias: of all rows; None for none.
        arithmetic: of products of few rows with packed pieces; many rows are multiplied in their own dtype.
    """

    pieces: tuple[Weight, ...]
    bias: Float[Tensor, " rows"] | None = None
    arithmetic: Arithmetic = "exact"

    @cached_property
    def _fused(self) -> tuple[Packed | None, ...]:
        return tuple(None if isinstance(piece, Tensor) else fused(piece) for piece in self.pieces)

    @cached_property
    def _products(self) -> tuple[Product, ...]:
        return tuple(
            partial(_packed, packed, piece, self.arithmetic)
            if packed is not None
            else partial(_by_slabs, None, piece)
            if isinstance(piece, Tensor)
            else partial(_by_pieces, piece)
            for packed, piece in zip(self._fused, self.pieces, strict=True)
        )

    def __call__(self, inputs: Float[Tensor, "*batch columns"]) -> Float[Tensor, "*batch rows"]:
        flat = inputs.reshape(-1, inputs.shape[-1])
        found = [product(flat) for product in self._products]
        outputs = found[0] if len(found) == 1 else torch.cat(found, dim=-1)
        if self.bias is not None:
            outputs = outputs + self.bias.to(outputs.dtype)
        return outputs.reshape(*inputs.shape[:-1], outputs.shape[-1])

    @cached_property
    def joins(self) -> bool:
        """Whether a product of many rows is that of each by itself, to the last bit, and as fast as any."""
        return all(packed is not None and packed.suits_many(self.arithmetic) for packed in self._fused)

    def between(
        self, inputs: Float[Tensor, "most columns"], outputs: Float[Tensor, "most rows"]
    ) -> Callable[[int], None]:
        """The product prepared for memory that stays where it is: a function of how many of its first rows are in use.

        The step of one token spends its time in products of microseconds, where slices and results cost as much.
        """
        piece = self.pieces[0]
        if _steps(inputs) and len(self.pieces) == 1 and isinstance(piece, Tensor):
            return kernels.dense(piece, self.bias, inputs, outputs)
        packed = [each for each in self._fused if each is not None]
        if _steps(inputs) and len(packed) == len(self.pieces):
            return between(packed, inputs, outputs, self.bias, self.arithmetic)
        views = [(inputs[:rows], outputs[:rows]) for rows in range(len(inputs) + 1)]

        def run(rows: int) -> None:
            given, out = views[rows]
            out.copy_(self(given))

        return run

    def gated(
        self,
        inputs: Float[Tensor, "most columns"],
        found: Float[Tensor, "most rows"],
        outputs: Float[Tensor, "most half"],
    ) -> list[Callable[[int], None]]:
        """silu of the first half of the product times the second, prepared likewise; `found` is for the product."""
        packed = [each for each in self._fused if each is not None]
        if _steps(inputs) and len(packed) == len(self.pieces):
            run = gated(packed, inputs, outputs, self.bias, self.arithmetic)
            if run is not None:
                return [run]
        return [self.between(inputs, found), kernels.gate(found, outputs)]

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


def tensors_of(weight: Weight) -> list[Tensor]:
    """The tensors that a weight is."""
    return [weight] if isinstance(weight, Tensor) else [*weight.parts.values()]


def nbytes(weight: Weight) -> int:
    """Bytes that a weight takes."""
    return sum(part.nbytes for part in tensors_of(weight))
