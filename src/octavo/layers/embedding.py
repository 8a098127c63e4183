"""Vectors of tokens, from a matrix that is dense or packed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor

from octavo.formats.product import fused
from octavo.formats.rows import select_rows
from octavo.kernels.product import Product
from octavo.layers.linear import Weight


@dataclass(frozen=True, eq=False)
class Embedding:
    """Rows of a matrix by their numbers.

    Attributes:
        weight: the matrix.
    """

    weight: Weight

    @cached_property
    def _fused(self) -> Product | None:
        return None if isinstance(self.weight, Tensor) else fused(self.weight)

    def __call__(self, index: Int[Tensor, "*batch"], dtype: torch.dtype) -> Float[Tensor, "*batch columns"]:
        """The rows, in a dtype."""
        if isinstance(self.weight, Tensor):
            return F.embedding(index, self.weight).to(dtype)
        flat = index.reshape(-1)
        rows = None if self._fused is None else self._fused.take(flat)
        if rows is None:
            rows = select_rows(self.weight, flat)
        if rows is None:
            rows = self.weight.dequantize()[flat]
        return rows.to(dtype).reshape(*index.shape, self.weight.shape[1])

    def between(self, index: Int64[Tensor, " most"], outputs: Float[Tensor, "most columns"]) -> Callable[[int], None]:
        """The same prepared for memory that stays where it is: a function of how many of its first rows are in use."""
        steps = outputs.dtype == torch.float32 and outputs.device.type == "cpu"
        lookup = self._fused.lookup(index, outputs) if steps and self._fused is not None else None
        if lookup is not None:
            return lookup

        def run(rows: int) -> None:
            outputs[:rows] = self(index[:rows], outputs.dtype)

        return run
