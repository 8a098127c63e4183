"""Codebooks that are tables in natural units: what integers, floats and normal floats share."""

from __future__ import annotations

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor

from octavo.formats.elements.element import base_statistic


class TableSpan:
    """A table keeps its values under every statistic; only its span differs."""

    @abstractmethod
    def values(self) -> Float[Tensor, " levels"]:
        """The table itself: sorted, float32, natural units."""

    def codebook(self, statistic: str, block: int | None) -> Float[Tensor, " levels"]:
        return self.values()

    def fit(
        self, values: Float[Tensor, " n"], weights: Float[Tensor, " n"] | None, statistic: str, block: int | None
    ) -> Float[Tensor, " levels"]:
        return self.values()

    def span(self, statistic: str, block: int | None) -> float:
        table = self.values()
        low, high = float(table[0]), float(table[-1])
        match base_statistic(statistic, block):
            case "absmax":
                return max(high, -low)
            case "signmax":
                return high if high >= -low else low
            case other:
                raise NotImplementedError(other)
