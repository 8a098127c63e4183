"""Vectors of tokens, from a matrix that is dense or packed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
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
