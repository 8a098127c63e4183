"""Columns of unequal width: those that matter most get more bits, at fixed width, so that nothing need be decoded.

Inputs of a layer differ in importance by orders of magnitude, and one width for all of them wastes bits on most.
Columns are ranked by what they would lose, importance times energy, and cut into groups; each group is a fixed-width
tensor of its own, with scales, codes and codebook. This is what reverse water-filling becomes where indices must have
fixed widths.

Parts, for G groups in the order of the element's token (a group that gets no columns has none):

- `group`: uint8, the group number 0 … G-1 of every column, packed as an alphabet of max(2, G) symbols;
- `codes_K`, `scales_K`, … : the parts of group K (octavo.formats.format), its columns in their own order.

Memory is that of the largest group on top of octavo.formats.fixed_width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.formats.elements import Element, parse_fixed_width
from octavo.formats.elements.trellis import Trellis
from octavo.formats.importance import Importance
from octavo.formats.rounding import Rounder
from octavo.formats.scaling import Scaling, block_statistic, row_ranges
from octavo.formats.tensor import QuantizedTensor
from octavo.kernels import pack, packed_bytes, unpack

if TYPE_CHECKING:
    from octavo.formats.format import Format

NAME = "columns"
EXAMPLE = "columns(int@8=32,lloyd@5=128,lloyd@3)"

_ITEM = re.compile(r"(?P<token>[a-z0-9-]+(?:\([^()]*\))?(?:@[0-9.]+)?)(?:=(?P<count>[0-9]{1,9}))?")


@dataclass(frozen=True)
class ColumnGroups:
    """Elements for groups of columns, the most important columns first.

    Attributes:
        first: (element, number of columns) of each group but the last; a tensor with fewer columns fills fewer groups.
        rest: element of all further columns.
    """

    first: tuple[tuple[Element | Trellis, int], ...]
    rest: Element | Trellis

    def __post_init__(self) -> None:
        if not self.first or any(count < 1 for _, count in self.first):
            raise FormatError("a group has at least one column", f"write for instance {EXAMPLE}")

    @property
    def levels(self) -> int:
        """Size of the smallest alphabet of codes."""
        return min(element.levels for element in self.elements)

    @property
    def elements(self) -> tuple[Element | Trellis, ...]:
        """The groups' elements in order."""
        return (*(element for element, _ in self.first), self.rest)

    def counts(self, columns: int) -> list[int]:
        """Columns of each group of a tensor."""
        found = []
        for _, count in self.first:
            found.append(min(count, columns - sum(found)))
        return [*found, columns - sum(found)]

    def groups(self, scaling: Scaling, columns: int) -> Iterator[tuple[int, Format, int]]:
        """(Number, format, columns) of each group that a tensor has."""
        from octavo.formats.format import Format

        for number, (element, count) in enumerate(zip(self.elements, self.counts(columns), strict=True)):
            if count:
                yield number, Format(element, scaling), count

    def index_bytes(self, columns: int) -> int:
        """Size of the part `group`."""
        return packed_bytes(columns, len(self.elements))

    def __str__(self) -> str:
        items = [f"{element}={count}" for element, count in self.first]
        return f"{NAME}({','.join([*items, str(self.rest)])})"


def parse_column_groups(token: str) -> ColumnGroups:
    """`columns(int@8=32,lloyd@5=128,lloyd@3)`: elements with their numbers of columns, and one for the rest.

    Raises:
        FormatError: another shape, or an unknown element.
    """
    items = re.findall(r"[^,()]+(?:\([^()]*\))?[^,()]*", token[len(NAME) :].removeprefix("(").removesuffix(")"))
    matches = [_ITEM.fullmatch(item) for item in items]
    if token != f"{NAME}({','.join(items)})" or len(items) < 2 or not all(matches):
        raise FormatError(f"{token!r} is no list of columns", f"write for instance {EXAMPLE}")
    parsed = [(parse_fixed_width(match["token"]), match["count"]) for match in matches if match]
    if parsed[-1][1] is not None or any(count is None for _, count in parsed[:-1]):
        raise FormatError(f"{token!r} must count all columns but the last", f"write for instance {EXAMPLE}")
    return ColumnGroups(tuple((element, int(count)) for element, count in parsed[:-1]), parsed[-1][0])


def stored_bits(format: Format, rows: int, columns: int) -> int:
    """Exact bits of all parts of a matrix."""
    element = _element(format)
    groups = element.groups(format.scaling, columns)
    return 8 * element.index_bytes(columns) + sum(group.stored_bits((rows, count)) for _, group, count in groups)


@dataclass(frozen=True, eq=False)
class GroupsRounder:
    """The groups of a tensor, each settled (see octavo.formats.rounding.Rounder).

    Attributes:
        format: the format.
        number: group of every column.
        groups: rounder of each group that has columns, by its number.
    """

    format: Format
    number: UInt8[Tensor, " columns"]
    groups: Mapping[int, Rounder]

    @property
    def together(self) -> int:
        return 1

    @cached_property
    def _place(self) -> Int64[Tensor, " columns"]:
        """Place of every column in its group."""
        place = torch.empty(len(self.number), dtype=torch.int64)
        for position in self.groups:
            chosen = self._members(position)
            place[chosen] = torch.arange(len(chosen))
        return place

    def _members(self, position: int) -> Int64[Tensor, " chosen"]:
        return (self.number == position).nonzero().flatten()

    def round(self, columns: slice, values: Float32[Tensor, "rows run"]) -> Float32[Tensor, "rows run"]:
        rounded = torch.empty_like(values)
        for offset, column in enumerate(range(columns.start, columns.stop)):
            place = int(self._place[column])
            group = self.groups[int(self.number[column])]
            one = slice(offset, offset + 1)
            rounded[:, one] = group.round(slice(place, place + 1), values[:, one].contiguous())
        return rounded

    def quantize(self, weights: Float[Tensor, "..."]) -> QuantizedTensor:
        matrix = weights.detach().reshape(-1, weights.shape[-1])
        parts = {"group": pack(self.number.to(matrix.device), len(_element(self.format).elements))}
        for position, group in self.groups.items():
            found = group.quantize(matrix[:, self._members(position).to(matrix.device)])
            parts |= {f"{name}_{position}": part for name, part in found.parts.items()}
        return QuantizedTensor(self.format, tuple(weights.shape), parts)


def settle(format: Format, weights: Float[Tensor, "..."], importance: Importance | None) -> GroupsRounder:
    """Which columns belong to which group, and the groups' scales and codebooks (see `Format.settle`).

    Raises:
        FormatError: a weight is NaN or infinite, or the importance has another shape.
    """
    element = _element(format)
    matrix = weights.detach().reshape(-1, weights.shape[-1])
    block_statistic(matrix, Scaling("channel", "absmax", "fp32"))  # refuses NaN, with its place in the whole
    columns = matrix.shape[1]
    if importance is not None:
        importance.checked(*matrix.shape)
    order = column_needs(matrix, importance).argsort(descending=True, stable=True)
    counts = torch.tensor(element.counts(columns))
    number = torch.empty(columns, dtype=torch.uint8)
    number[order.cpu()] = torch.arange(len(counts), dtype=torch.uint8).repeat_interleave(counts)
    groups = {}
    for position, group, _ in element.groups(format.scaling, columns):
        chosen = (number == position).nonzero().flatten().to(matrix.device)
        known = None if importance is None else Importance(importance.row, importance.column[chosen])
        groups[position] = group.settle(matrix[:, chosen], known)
    return GroupsRounder(format, number, groups)


def dequantize(quantized: QuantizedTensor) -> Float32[Tensor, "..."]:
    """The tensor behind the parts, float32."""
    values = assembled(quantized, quantized.numel // quantized.shape[-1], QuantizedTensor.dequantize)
    assert values is not None
    return values.view(quantized.shape)


def assembled(
    quantized: QuantizedTensor, rows: int, taken: Callable[[QuantizedTensor], Tensor | None]
) -> Float32[Tensor, "rows columns"] | None:
    """`rows` rows of the matrix, from those that are `taken` of each group; None where there are none to be taken."""
    values = torch.empty(rows, quantized.shape[-1], device=quantized.parts["group"].device)
    for _, chosen, group in members(quantized):
        found = taken(group)
        if found is None:
            return None
        values[:, chosen] = found
    return values


def members(quantized: QuantizedTensor) -> Iterator[tuple[int, Int64[Tensor, " columns"], QuantizedTensor]]:
    """(Number, column numbers, matrix of these columns) of each group."""
    element = _element(quantized.format)
    columns = quantized.shape[-1]
    number = unpack(quantized.parts["group"], len(element.elements), columns)
    for position, group, count in element.groups(quantized.format.scaling, columns):
        suffix = f"_{position}"
        parts = {name.removesuffix(suffix): p for name, p in quantized.parts.items() if name.endswith(suffix)}
        chosen = (number == position).nonzero().flatten()
        yield position, chosen, QuantizedTensor(group, (quantized.numel // columns, count), parts)


def column_needs(matrix: Float[Tensor, "rows columns"], importance: Importance | None) -> Float[Tensor, " columns"]:
    """What each column would lose if it were left out: Σ_i F_ij w_ij², float64."""
    needs = torch.zeros(matrix.shape[1], dtype=torch.float64, device=matrix.device)
    for part in row_ranges(*matrix.shape):
        squares = matrix[part].double().square()
        needs += squares.sum(0) if importance is None else importance.row[part].to(squares) @ squares
    return needs if importance is None else needs * importance.column.to(needs)


def _element(format: Format) -> ColumnGroups:
    assert isinstance(format.element, ColumnGroups)
    return format.element
