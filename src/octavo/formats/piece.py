"""A part of a matrix, dequantized."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float32
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Piece:
    """Some rows of some columns of a matrix.

    Attributes:
        rows, columns: which.
        values: of their weights.
    """

    rows: slice
    columns: slice
    values: Float32[Tensor, "_ _"]
