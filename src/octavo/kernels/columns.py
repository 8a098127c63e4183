"""Which columns of the inputs a part of a packed matrix takes."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float32, Int32
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns, in a part's order.

    Attributes:
        numbers: of the columns, in the part's order; None for all, in their own.
        factors: what each is multiplied with first; None for 1.
    """

    numbers: Int32[Tensor, " count"] | None = None
    factors: Float32[Tensor, " count"] | None = None

    def of(self, values: Float32[Tensor, "batch columns"]) -> Float32[Tensor, "batch count"]:
        """The columns of some inputs, times their factors."""
        taken = values if self.numbers is None else values[:, self.numbers.long()]
        return taken if self.factors is None else taken * self.factors

    def count(self, columns: int) -> int:
        """How many these are of a matrix with so many."""
        return columns if self.numbers is None else len(self.numbers)

    def fit(self, columns: int) -> bool:
        """Whether a matrix with so many columns has these."""
        return within(self.numbers, columns) and (self.factors is None or len(self.factors) == self.count(columns))

    def spread(self, weights: Float32[Tensor, "rows count"], columns: int) -> Float32[Tensor, "rows {columns}"]:
        """Weights of these columns, times their factors, where they stand in the matrix."""
        scaled = weights if self.factors is None else weights * self.factors
        if self.numbers is None:
            return scaled
        return scaled.new_zeros(len(scaled), columns).index_add(1, self.numbers, scaled)


ALL = Columns()
"""All columns, in their own order."""


def within(numbers: Int32[Tensor, " count"] | None, columns: int) -> bool:
    """Whether a matrix with so many columns has all of these; None stands for its own."""
    return numbers is None or not bool(((numbers < 0) | (numbers >= columns)).any())
