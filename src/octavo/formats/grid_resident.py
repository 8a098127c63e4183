"""Grid indices as they are kept in memory: every column as wide as its indices need, sorted by width.

A grid's bit stream cannot be computed with. Decoded, its indices go up to 511 and more, but each column (input) has its
own range: most take three to six bits, a few that matter most take a byte or two. Columns of one width are packed
together, so that nothing need be decoded bit by bit; the few indices that a width would be wasted on are kept apart.
The parts, which are never stored in a file:

- `place`: int16 or int32 [columns], where each column stands in the order of width, the widest first;
- `codes_0`: uint8 [0, n], a place holder for the n columns of width 0, all of whose codes are apart;
- `codes_K`: uint8 [rows, n·K/8], the values in steps (of a trellis: in half steps) of the columns of width K = 2 … 8,
  plus 2^(K-1), packed by octavo.kernels.layout row by row, n a multiple of 8 (the last of the narrowest may stand for
  none);
- `codes_16`: int16 [rows, n];
- `far_row`, `far_column`, `far_code`: int32, int32 and int16, the values apart, in the order of rows;
- `row_step`, `column_step`, `step`, `points`: see octavo.formats.entropy_coded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

import numpy as np
import torch
from jaxtyping import Float32, Int16, Int64
from numpy.typing import NDArray
from torch import Tensor

from octavo import kernels
from octavo.formats.coding import scale_context
from octavo.kernels import column_codes
from octavo.kernels.column_widths import TOGETHER, WIDTHS

OCTAVES = 126
"""Row and column steps lie within 2^±126: they and their products by a fraction are normal numbers in float32."""

_FARTHEST = OCTAVES * scale_context.QUARTERS

APART = 80
"""Bits of a code that is kept apart, with its row and column."""


def narrowed(codes: NDArray[np.int16]) -> dict[str, Tensor]:
    """The parts that hold a matrix of indices."""
    counts = column_codes.count_widths(codes)
    number = _filled(_widths(counts))
    order = np.argsort(-number, kind="stable").astype(np.int32)
    columns = len(order)
    place = np.empty(columns, dtype=np.int16 if columns < 1 << 15 else np.int32)
    place[order] = np.arange(columns)
    found = {"place": torch.from_numpy(place)}
    groups = [(width, int((number == WIDTHS.index(width)).sum())) for width in reversed(WIDTHS)]
    groups = [group for group in groups if group[1]]
    beyond = len(codes) - counts.cumsum(1)[np.arange(columns), number]
    packed, far = column_codes.pack_columns(codes, order, groups, int(beyond.sum()))
    for (width, count), own in zip(groups, packed, strict=True):
        held = torch.from_numpy(own.view("<i2") if width == 16 else own)
        found[f"codes_{width}"] = held if width else torch.empty(0, count, dtype=torch.uint8)
    far_parts = {"far_row": far.row, "far_column": far.column, "far_code": far.code}
    return found | {name: torch.from_numpy(part) for name, part in far_parts.items()}


def grown_bits(parts: Mapping[str, Tensor], factor: float) -> int:
    """Bits of a matrix that has `factor` times as many rows like those of these parts."""
    bits = {name: 8 * part.element_size() * part.numel() for name, part in parts.items()}
    by_column = sum(bits[name] for name in ("place", "column_step", "step", "points"))
    return round(by_column + factor * (sum(bits.values()) - by_column))


def _widths(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """For every column the place in `WIDTHS` of the width that takes least, codes apart included."""
    rows = counts[0].sum()
    beyond = rows - counts.cumsum(1)
    return (np.array(WIDTHS) * rows + APART * beyond).argmin(1)


def _filled(number: NDArray[np.int64]) -> NDArray[np.int64]:
    """Some columns made wider, so that each width but the narrowest has a multiple of `TOGETHER` columns."""
    number = number.copy()
    order = np.argsort(-number, kind="stable")
    first = 0
    while first < len(order):
        widest = number[order[first]]
        count = int((number[order[first:]] == widest).sum())
        last = min(first + -(-count // TOGETHER) * TOGETHER, len(order))
        number[order[first:last]] = widest
        first = last
    return number


def dequantize(parts: Mapping[str, Tensor]) -> Float32[Tensor, "rows columns"]:
    """The values of a matrix."""
    place, points = parts["place"].long(), parts["points"]
    row, column = steps(parts)
    sorted_step = torch.empty_like(column).index_copy_(0, place, column)
    values = torch.zeros(len(row), len(column), device=row.device)
    for columns, codes in _groups(parts):
        values[:, columns] = kernels.separable_dequantize(codes, row, sorted_step[columns], points)
    values = values.index_select(1, place)
    if len(parts["far_row"]):
        values[parts["far_row"].long(), parts["far_column"].long()] = far_values(parts)
    return values


def far_values(parts: Mapping[str, Tensor]) -> Float32[Tensor, " far"]:
    """The values that are kept apart."""
    row, column = steps(parts)
    step = row[parts["far_row"].long()] * column[parts["far_column"].long()]
    one = torch.ones(1, device=row.device)
    return kernels.separable_dequantize(parts["far_code"][:, None], step, one, parts["points"])[:, 0]


def widened(parts: Mapping[str, Tensor]) -> Int16[Tensor, "rows columns"]:
    """The indices of a matrix: what `narrowed` was given."""
    codes = torch.zeros(len(parts["row_step"]), len(parts["column_step"]), dtype=torch.int16)
    for columns, group in _groups(parts):
        codes[:, columns] = group.to(torch.int16)
    codes = codes.index_select(1, parts["place"].long())
    codes[parts["far_row"].long(), parts["far_column"].long()] = parts["far_code"]
    return codes


def steps(parts: Mapping[str, Tensor]) -> tuple[Float32[Tensor, " rows"], Float32[Tensor, " columns"]]:
    """The factors whose products are the steps of a matrix's weights."""
    return _steps(parts["row_step"]), _steps(parts["column_step"]) * parts["step"]


def _groups(parts: Mapping[str, Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """(Places, codes) of the columns of each width that has codes."""
    for width, columns, packed in stored_groups(parts):
        if width:
            codes = _unpacked(packed, width, len(parts["row_step"]))
            yield columns, codes[:, : columns.stop - columns.start].contiguous()


def stored_groups(parts: Mapping[str, Tensor]) -> Iterator[tuple[int, slice, Tensor]]:
    """(Width, places, codes as they are stored) of the columns of each width."""
    columns, first = len(parts["column_step"]), 0
    for width in reversed(WIDTHS):
        if (packed := parts.get(f"codes_{width}")) is None:
            continue
        count = min(columns - first, _columns(packed, width))
        yield width, slice(first, first + count), packed
        first += count


def _columns(packed: Tensor, width: int) -> int:
    return packed.shape[1] * 8 // width if 0 < width < 16 else packed.shape[1]


def _unpacked(packed: Tensor, width: int, rows: int) -> Tensor:
    if width == 16:
        return packed
    count = _columns(packed, width)
    codes = kernels.unpack(packed.reshape(-1), 1 << width, rows * count).view(rows, count)
    return codes.view(torch.int8).add_(-(1 << (width - 1)))


def take_rows(parts: Mapping[str, Tensor], rows: slice | Int64[Tensor, " rows"]) -> dict[str, Tensor]:
    """The parts of some rows: of a slice without copying, or of row numbers in any order."""
    taken = {name: part[rows] if name.startswith("codes_") and len(part) else part for name, part in parts.items()}
    taken["row_step"] = parts["row_step"][rows]
    # The codes apart of a row follow each other.
    far_row = parts["far_row"].long()
    if isinstance(rows, slice):
        first, last = torch.searchsorted(far_row, torch.tensor([rows.start, rows.stop], device=far_row.device)).tolist()
        taken |= {name: parts[name][first:last] for name in ("far_row", "far_column", "far_code")}
        taken["far_row"] = taken["far_row"] - rows.start
        return taken
    first, last = (torch.searchsorted(far_row, rows, right=right) for right in (False, True))
    count = last - first
    owner = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), count)
    within = torch.arange(len(owner), device=rows.device) - (count.cumsum(0) - count)[owner]
    chosen = first[owner] + within
    taken |= {name: parts[name][chosen] for name in ("far_column", "far_code")}
    taken["far_row"] = owner.to(torch.int32)
    return taken


def _steps(quarters: Int16[Tensor, " side"]) -> Float32[Tensor, " side"]:
    """The steps whose inverses' logarithms these are."""
    # Looked up by numpy, whose indexing starts no threads: dequantizing a slab takes less time than waking them.
    return torch.from_numpy(_inverse_powers()[quarters.cpu().numpy() + _FARTHEST]).to(quarters.device)


@cache
def _inverse_powers() -> NDArray[np.float32]:
    return np.float32(1) / scale_context.power(np.arange(-_FARTHEST, _FARTHEST + 1))
