"""Quantized tensors put on top of each other as they are: their parts are joined, and nothing is decoded.

That works where every row is quantized without a look at the others. It lets what grows by rows, such as a cache, be
decoded in one go however it came to be.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch

from octavo.base.errors import FormatError
from octavo.formats.column_groups import ColumnGroups
from octavo.formats.elements.grid import Grid
from octavo.formats.elements.trellis import Trellis
from octavo.formats.lattice.element import VectorElement
from octavo.formats.tensor import QuantizedTensor
from octavo.kernels.layout import layout_of

if TYPE_CHECKING:
    from octavo.formats.format import Format

_OF_ROWS = ("codes", "scales")


def stackable(format: Format, shape: tuple[int, ...]) -> bool:
    """Whether `stack` takes tensors of that format, the upper one being of that shape.

    The format must have nothing that belongs to the tensor as a whole (a fitted codebook, a second level of scales,
    outliers), and the shape's codes must fill whole bytes.
    """
    element, scaling = format.element, format.scaling
    if format.code != "fixed" or isinstance(element, ColumnGroups | Grid | Trellis | VectorElement):
        return False
    by_row = scaling.granularity != "tensor" and not scaling.kind.second_level
    alone = by_row and not format.outliers and not element.data_driven
    return alone and prod(shape) % layout_of(element.levels).digits == 0


def stack(upper: QuantizedTensor, lower: QuantizedTensor) -> QuantizedTensor:
    """What quantizing the two tensors, joined along their first axis, would have given, part for part.

    Raises:
        FormatError: the formats or the axes after the first differ, or they are not `stackable`.
    """
    if upper.format != lower.format or upper.shape[1:] != lower.shape[1:]:
        raise FormatError(
            f"{lower.format} {lower.shape} does not go below {upper.format} {upper.shape}", "quantize them alike"
        )
    if not stackable(upper.format, upper.shape):
        raise FormatError(f"{upper.format} is not decoded row by row", "keep the tensors apart")
    joined = {name: torch.cat([upper.parts[name], lower.parts[name]]) for name in _OF_ROWS}
    return QuantizedTensor(upper.format, (upper.shape[0] + lower.shape[0], *upper.shape[1:]), {**upper.parts, **joined})
