"""Fine-tuning what is continuous in a quantized tensor while its codes stay (octavo.compress.tuning)."""

from __future__ import annotations

import torch

from octavo.formats.column_groups import ColumnGroups
from octavo.formats.elements.element import Element
from octavo.formats.elements.grid import Grid
from octavo.formats.elements.trellis import Trellis
from octavo.formats.microscaling import Microscaling
from octavo.formats.outlier_rounder import rest_of
from octavo.formats.tensor import QuantizedTensor
from octavo.formats.tuning.column_groups import ColumnGroupsTunable
from octavo.formats.tuning.fixed_width import FixedWidthTunable
from octavo.formats.tuning.grids import GridTunable
from octavo.formats.tuning.outliers import OutlierTunable
from octavo.formats.tuning.trellis import TrellisTunable
from octavo.formats.tuning.tunable import Deviations, Tunable

__all__ = ["Deviations", "Tunable", "tunable"]


def tunable(quantized: QuantizedTensor, device: torch.device) -> Tunable | None:
    """A quantized tensor as a function of its continuous parts; None if it has none, or none that may be tuned.

    Args:
        quantized: the tensor; its parts are on the CPU.
        device: where its values are to be computed.
    """
    element = quantized.format.element
    if quantized.format.outliers:
        rest = tunable(rest_of(quantized), device)
        return None if rest is None else OutlierTunable(quantized, rest)
    if isinstance(element, Grid):
        found: Tunable = GridTunable(quantized, device)
    elif isinstance(element, ColumnGroups):
        found = ColumnGroupsTunable(quantized, device)
    elif isinstance(element, Trellis):
        found = TrellisTunable(quantized, device)
    elif isinstance(element, Element | Microscaling):
        found = FixedWidthTunable(quantized, device)
    else:
        return None
    return found if found.sizes else None
