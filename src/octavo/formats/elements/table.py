"""Codebooks that are tables in natural units: what integers, floats and normal floats share."""

from __future__ import annotations

import functools
from abc import abstractmethod

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from octavo.formats.elements.element import base_statistic
from octavo.measure.scalar import best_multiplier
from octavo.measure.sources import Normal


class Table:
    """A table keeps its values under every statistic; only its span differs."""

    @property
    def stored(self) -> bool:
        return False

    @property
    def data_driven(self) -> bool:
        return False

    @abstractmethod
    def values(self) -> tuple[float, ...]:
        """The table itself: sorted, natural units, each exact in float32."""

    def codebook(self, statistic: str, block: int | None) -> Float[Tensor, " levels"]:
        return torch.tensor(self.values(), dtype=torch.float32)

    def fit(
        self, values: Float[Tensor, " n"], weights: Float[Tensor, " n"] | None, statistic: str, block: int | None
    ) -> Float[Tensor, " levels"]:
        return self.codebook(statistic, block)

    def span(self, statistic: str, block: int | None) -> float:
        table = self.values()
        low, high = table[0], table[-1]
        match base_statistic(statistic, block):
            case "absmax":
                return max(high, -low)
            case "signmax":
                return high if high >= -low else low
            case "absmean":
                return Normal.unit_rms().mean_absolute / placement(table)
            case _:
                return 1 / placement(table)


@functools.lru_cache(maxsize=256)
def placement(table: tuple[float, ...]) -> float:
    """The scale of least squared error for a table on unit normal data."""
    return best_multiplier(np.array(table), Normal.unit_rms())
