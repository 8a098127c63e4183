"""Norm gains and biases, which a compressed model keeps as they are, as parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from octavo.formats.tuning import Deviations

SHARE = 0.1
"""What a deviation of one adds to an element of zero, in root mean squares of its vector."""


@dataclass(frozen=True, eq=False)
class VectorTunable:
    """A vector that is kept as it is (see octavo.formats.tuning.Tunable).

    Parameters: `vector`, shares of each element's own magnitude, with a little of the whole vector's.

    Attributes:
        vector: as it is stored.
        device: where values are computed.
    """

    vector: Float[Tensor, " n"]
    device: torch.device

    @property
    def sizes(self) -> Mapping[str, tuple[int, ...]]:
        return {"vector": tuple(self.vector.shape)}

    def values(self, deviations: Deviations) -> Float[Tensor, " n"]:
        start = self.vector.to(self.device).float()
        return start + deviations["vector"] * (start.abs() + SHARE * start.square().mean().sqrt())

    def parts(self, deviations: Deviations) -> dict[str, Tensor]:
        """The vector moved and rounded to its own dtype."""
        limit = torch.finfo(self.vector.dtype).max
        moved = self.values(deviations).clamp(-limit, limit).to(self.vector.dtype).cpu()
        return {"": torch.where(deviations["vector"].cpu() == 0, self.vector, moved)}
