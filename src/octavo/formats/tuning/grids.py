"""The common step and the reconstruction points of entropy-coded grids as parameters.

Both stand in the header of the bit stream, which is replaced and nothing else: indices, contexts and tables stay. The
rows' and columns' own steps are whole quarter octaves, too coarse to be tuned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int16
from torch import Tensor

from octavo.formats import entropy_coded, grid_resident, grid_stream
from octavo.formats.grid_census import POINTS
from octavo.formats.grid_codes import LARGEST
from octavo.formats.tensor import QuantizedTensor
from octavo.formats.tuning.tunable import Deviations, looked_up


@dataclass(frozen=True, eq=False)
class GridTunable:
    """A grid (see octavo.formats.tuning.tunable.Tunable).

    Parameters: `step`, the logarithm of a multiple of the common step; `points`, what each quantizer's values 1 …
    POINTS move away from zero, in steps.

    Attributes:
        quantized: the tensor as it is stored.
        device: where values are computed.
    """

    quantized: QuantizedTensor
    device: torch.device

    @property
    def sizes(self) -> Mapping[str, tuple[int, ...]]:
        return {"step": (1,), "points": (self._quantizers, POINTS)}

    def values(self, deviations: Deviations) -> Float[Tensor, "rows columns"]:
        places, row, column, table = self._decoded
        moved = deviations["points"]
        # In fine steps, the values of quantizer 1 lie between those of quantizer 0.
        near = self._quantizers * moved.flip(0).T.flatten()
        near = torch.cat([-near.flip(0), near.new_zeros(1), near])
        beyond = len(table) // 2 - len(near) // 2
        table = table + F.pad(near, (beyond, beyond))
        step = deviations["step"].exp()
        return looked_up(table * step, places) * (row[:, None] * column)

    def stored(self, deviations: Deviations) -> QuantizedTensor:
        coded = self.quantized.parts["coded"]
        step, shortfall = grid_stream.continuous(coded)
        step, shortfall = step * float(deviations["step"].exp()), shortfall - deviations["points"].cpu()
        return replace(self.quantized, parts={"coded": grid_stream.with_continuous(coded, step, shortfall)})

    @property
    def _quantizers(self) -> int:
        return len(grid_stream.continuous(self.quantized.parts["coded"])[1])

    @cached_property
    def _decoded(
        self,
    ) -> tuple[
        Int16[Tensor, "rows columns"], Float32[Tensor, " rows"], Float32[Tensor, " columns"], Float32[Tensor, " places"]
    ]:
        """Places in the table, steps of rows and columns, and the table of values in fine steps."""
        parts = entropy_coded.decoded(self.quantized).parts
        codes = grid_resident.widened(parts)
        largest = self._quantizers * LARGEST
        table = torch.arange(-largest, largest + 1, dtype=torch.float32)
        near = parts["points"]
        table[largest - len(near) // 2 : largest + len(near) // 2 + 1] = near
        row, column = grid_resident.steps(parts)
        places = (codes + largest).to(self.device)
        return places, row.to(self.device), column.to(self.device), table.to(self.device)
