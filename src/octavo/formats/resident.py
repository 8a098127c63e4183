"""The form of a tensor that is kept in memory, to be multiplied and to have rows cut out.

| stored | resident |
|---|---|
| codes of 2^w levels, complete formats, trellises, lattices | as stored |
| codes of another number of levels | codes of the next power of two, and their codebook (`lloyd`) |
| entropy-coded | decoded (octavo.formats.entropy_coded), then as above |

Digits of a base that is no power of two are found by dividing, one after the other, which takes 50 times as long as
cutting out bits. As bits they take as many bytes where a base is one less than a power of two from 16 on (E2M1 and
other floats, symmetric integers), 25 % more for ternary ones, and 29 % more at most (5 levels).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from octavo.formats import entropy_coded
from octavo.formats.column_groups import ColumnGroups, members
from octavo.formats.elements.element import Element
from octavo.formats.elements.grid import Grid
from octavo.formats.elements.lloyd_max import LloydMax
from octavo.formats.elements.trellis import Trellis
from octavo.formats.format import Format
from octavo.formats.lattice.element import VectorElement
from octavo.formats.microscaling import Microscaling
from octavo.formats.tensor import QuantizedTensor
from octavo.kernels import repack


def resident(quantized: QuantizedTensor) -> QuantizedTensor:
    """The tensor in the form that is kept in memory: its values are the same, bit for bit.

    Raises:
        CheckpointError: the stream of an entropy-coded tensor is damaged.
    """
    if "coded" in quantized.parts:
        quantized = entropy_coded.decoded(quantized)
    if isinstance(quantized.format.element, Grid):
        return quantized
    format = resident_format(quantized.format)
    if format == quantized.format:
        return quantized
    return QuantizedTensor(format, quantized.shape, _parts(quantized))


def resident_format(format: Format) -> Format:
    """The format of a tensor in memory.

    Raises:
        FormatError: a grid, whose columns have each a width of their own there.
    """
    format = replace(format, code="fixed")
    if not isinstance(format.element, ColumnGroups):
        return replace(format, element=_of_bits(format.element))
    first = tuple((_of_bits(element), count) for element, count in format.element.first)
    return replace(format, element=ColumnGroups(first, _of_bits(format.element.rest)))


AnyElement = TypeVar("AnyElement")


def _of_bits(element: AnyElement) -> AnyElement | LloydMax:
    """The element itself, or for a codebook of no power of two the one that can hold it."""
    if isinstance(element, Trellis | VectorElement | Microscaling) or not isinstance(element, Element):
        return element
    wide = _wide(element.levels)
    return element if wide == element.levels else LloydMax(wide)


def _wide(levels: int) -> int:
    """The next power of two."""
    return 1 << (levels - 1).bit_length()


def _parts(quantized: QuantizedTensor) -> Mapping[str, Tensor]:
    if not isinstance(quantized.format.element, ColumnGroups):
        return _coded_in_bits(quantized)
    parts = {"group": quantized.parts["group"]}
    for number, _, group in members(quantized):
        parts |= {f"{name}_{number}": part for name, part in resident(group).parts.items()}
    return parts


def _coded_in_bits(quantized: QuantizedTensor) -> Mapping[str, Tensor]:
    element, scaling, codes = quantized.format.element, quantized.format.scaling, quantized.parts["codes"]
    assert isinstance(element, Element)
    stored = quantized.parts.get("codebook")
    codebook = element.codebook(scaling.base, scaling.block).to(codes.device) if stored is None else stored
    wide = _wide(element.levels)
    # No code is above the old ones: what the new ones stand for need only be in order.
    codebook = torch.cat([codebook, codebook[-1:].expand(wide - element.levels)])
    return {**quantized.parts, "codes": repack(codes, element.levels, wide, quantized.numel), "codebook": codebook}
