"""Column groups: the parameters of every group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from octavo.formats import column_groups
from octavo.formats.elements.trellis import Trellis
from octavo.formats.tensor import QuantizedTensor
from octavo.formats.tuning.fixed_width import FixedWidthTunable
from octavo.formats.tuning.trellis import TrellisTunable
from octavo.formats.tuning.tunable import Deviations


@dataclass(frozen=True, eq=False)
class ColumnGroupsTunable:
    """Groups of columns (see octavo.formats.tuning.tunable.Tunable); parameters are named `PARAMETER_GROUP`.

    Attributes:
        quantized: the tensor as it is stored.
        device: where values are computed.
    """

    quantized: QuantizedTensor
    device: torch.device

    @property
    def sizes(self) -> Mapping[str, tuple[int, ...]]:
        return {f"{name}_{number}": size for number, _, group in self._groups for name, size in group.sizes.items()}

    def values(self, deviations: Deviations) -> Float[Tensor, "rows columns"]:
        found = [group.values(_of(deviations, number)) for number, _, group in self._groups]
        return torch.cat(found, 1).index_select(1, self._place)

    def stored(self, deviations: Deviations) -> QuantizedTensor:
        parts = dict(self.quantized.parts)
        for number, _, group in self._groups:
            moved = group.stored(_of(deviations, number)).parts
            parts |= {f"{name}_{number}": part for name, part in moved.items()}
        return replace(self.quantized, parts=parts)

    @cached_property
    def _groups(self) -> list[tuple[int, Int64[Tensor, " _"], FixedWidthTunable | TrellisTunable]]:
        """Number, columns and tunable of each group."""
        return [
            (number, chosen, _tunable(group, self.device))
            for number, chosen, group in column_groups.members(self.quantized)
        ]

    @cached_property
    def _place(self) -> Int64[Tensor, " columns"]:
        """Where each column is among those of all groups in order."""
        return torch.cat([chosen for _, chosen, _ in self._groups]).argsort().to(self.device)


def _of(deviations: Deviations, number: int) -> dict[str, Tensor]:
    suffix = f"_{number}"
    return {name.removesuffix(suffix): part for name, part in deviations.items() if name.endswith(suffix)}


def _tunable(group: QuantizedTensor, device: torch.device) -> FixedWidthTunable | TrellisTunable:
    if isinstance(group.format.element, Trellis):
        return TrellisTunable(group, device)
    return FixedWidthTunable(group, device)
