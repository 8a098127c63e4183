"""Dequantize some rows of a quantized matrix without the others."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from octavo.formats import entropy_coded, fixed_trellis, grid_resident
from octavo.formats.column_groups import ColumnGroups, assembled
from octavo.formats.elements.trellis import Trellis
from octavo.formats.lattice.element import VectorElement
from octavo.formats.outlier_rounder import apart, rest_of
from octavo.formats.piece import Piece
from octavo.formats.tensor import QuantizedTensor
from octavo.kernels.layout import layout_of, packed_bytes

SLAB = 1 << 21
"""Weights dequantized at once by a linear layer: 8 MiB in float32. Larger blocks of memory are fetched from the system
for every slab, which takes longer than dequantizing; smaller ones make many small products of a long input."""

PIECE = 1 << 17
"""Weights dequantized at once where memory counts."""

_BY_ROW = {"codes", "scales", "scale", "codebook"}
"""Parts that lie row by row, or hold for all rows."""


def select_rows(quantized: QuantizedTensor, index: Tensor) -> Tensor | None:
    """Rows `index` (1-D, int64, any order, with repeats) of the tensor seen as a matrix [rows, columns], float32.

    Packed codes of consecutive rows run on without padding, so a row of odd length starts inside a byte. Rows are
    therefore cut out in the smallest groups that start and end at whole packed groups: one row if its codes fill whole
    groups, else as many rows as a packed group has digits.

    Returns None where rows cannot be cut out (parts this function does not know): the caller dequantizes everything.
    """
    columns = quantized.shape[-1]
    rows = quantized.numel // columns
    if quantized.format.outliers:
        return _with_outliers(select_rows(rest_of(quantized), index), quantized, index)
    parts = dict(quantized.parts)
    if "coded" in parts:
        return _decoded_rows(quantized, index)
    if "row_step" in parts:
        return grid_resident.dequantize(grid_resident.take_rows(parts, index))
    if isinstance(quantized.format.element, ColumnGroups):
        return assembled(quantized, len(index), lambda group: select_rows(group, index))
    if isinstance(quantized.format.element, Trellis):
        return fixed_trellis.select_rows(quantized, index) if index.numel() else None
    if isinstance(quantized.format.element, VectorElement):
        return quantized.format.element.take_rows(quantized, index)
    levels = quantized.format.levels
    if levels is None or not parts.keys() <= _BY_ROW or not index.numel():
        return None
    group = _rows_a_group(columns, levels)
    wanted, inverse = torch.unique(index // group, return_inverse=True)
    row_bytes = packed_bytes(group * columns, levels)
    whole = rows // group
    codes = parts["codes"]
    blocks = codes[: whole * row_bytes].view(whole, row_bytes)[wanted[wanted < whole]].reshape(-1)
    chosen = (wanted[:, None] * group + torch.arange(group, device=wanted.device)).reshape(-1)
    if int(wanted[-1]) == whole:
        # The last rows do not fill a group: they are the stream's tail.
        blocks = torch.cat([blocks, codes[whole * row_bytes :]])
        chosen = chosen[chosen < rows]
    parts["codes"] = blocks
    if parts["scales"].shape[0] == rows and rows > 1:
        # Indexing copies bytes, which every dtype has; narrow floats have no indexing kernel.
        scales = parts["scales"]
        width = scales.element_size()
        raw = scales.contiguous().view(torch.uint8).view(rows, -1)[chosen]
        parts["scales"] = raw.view(len(chosen), scales.shape[1], width).view(scales.dtype).view(len(chosen), -1)
    matrix = QuantizedTensor(quantized.format, (len(chosen), columns), parts).dequantize()
    return matrix[inverse * group + index % group]


def slice_rows(quantized: QuantizedTensor, start: int, stop: int) -> Tensor | None:
    """Rows start to stop of the tensor seen as a matrix [rows, columns], float32: `select_rows` without copying parts.

    Returns None where rows cannot be cut out, as `select_rows` does.
    """
    columns = quantized.shape[-1]
    rows = quantized.numel // columns
    if quantized.format.outliers:
        index = torch.arange(start, stop, device=next(iter(quantized.parts.values())).device)
        return _with_outliers(slice_rows(rest_of(quantized), start, stop), quantized, index)
    parts = dict(quantized.parts)
    if "row_step" in parts:
        return grid_resident.dequantize(grid_resident.take_rows(parts, slice(start, stop)))
    if isinstance(quantized.format.element, ColumnGroups):
        return assembled(quantized, stop - start, lambda group: slice_rows(group, start, stop))
    if isinstance(quantized.format.element, Trellis):
        return fixed_trellis.slice_rows(quantized, start, stop) if start < stop else None
    if isinstance(quantized.format.element, VectorElement):
        return quantized.format.element.take_rows(quantized, slice(start, stop))
    levels = quantized.format.levels
    if levels is None or not parts.keys() <= _BY_ROW or start >= stop:
        return None
    group = _rows_a_group(columns, levels)
    # Whole groups around the rows that are wanted; the last one may be short.
    begin, end = start // group * group, min(-(-stop // group) * group, rows)
    parts["codes"] = parts["codes"][packed_bytes(begin * columns, levels) : packed_bytes(end * columns, levels)]
    if parts["scales"].shape[0] == rows and rows > 1:
        parts["scales"] = parts["scales"][begin:end]
    matrix = QuantizedTensor(quantized.format, (end - begin, columns), parts).dequantize()
    return matrix[start - begin : stop - begin]


def slabs(quantized: QuantizedTensor, height: int) -> Iterator[Tensor]:
    """The tensor seen as a matrix, float32, in order: `height` rows at a time where its format lets them be cut out."""
    rows = quantized.numel // quantized.shape[-1]
    yield from (slab for _, slab in _slabs(quantized, 0, rows, height))


def pieces(quantized: QuantizedTensor, begin: int, end: int) -> Iterator[Piece]:
    """Pieces of the tensor seen as a matrix, which together hold its rows from begin to end; one is small where the
    format lets it be cut out.

    Raises:
        CheckpointError: an entropy-coded stream is damaged.
    """
    if "coded" in quantized.parts and not quantized.format.outliers:
        yield from entropy_coded.pieces(quantized, begin, end)
        return
    columns = quantized.shape[-1]
    height = max(1, PIECE // columns)
    yield from (Piece(rows, slice(0, columns), slab) for rows, slab in _slabs(quantized, begin, end, height))


def _slabs(quantized: QuantizedTensor, begin: int, end: int, height: int) -> Iterator[tuple[slice, Tensor]]:
    """Rows from begin to end, some at a time, and which they are; all rows where the format cannot be cut."""
    for start in range(begin, end, height):
        rows = slice(start, min(end, start + height))
        slab = slice_rows(quantized, rows.start, rows.stop)
        if slab is None:
            # It is the format that cannot be cut, so this is the first slab.
            whole = quantized.dequantize().view(-1, quantized.shape[-1])
            yield slice(0, len(whole)), whole
            return
        yield rows, slab


def _decoded_rows(quantized: QuantizedTensor, index: Tensor) -> Tensor | None:
    """Rows of an entropy-coded tensor; those beyond the last that is wanted are not decoded where they need not be."""
    if not index.numel():
        return None
    found = torch.empty(len(index), quantized.shape[-1], device=index.device)
    for piece in pieces(quantized, int(index.min()), int(index.max()) + 1):
        here = ((index >= piece.rows.start) & (index < piece.rows.stop)).nonzero()[:, 0]
        rows = piece.values[index[here].cpu() - piece.rows.start]
        found[here, piece.columns] = rows.to(found.device)
    return found


def _with_outliers(rows: Tensor | None, quantized: QuantizedTensor, index: Tensor) -> Tensor | None:
    """Rows `index` of a tensor, from those of its rest."""
    if rows is None:
        return None
    where, values = apart(quantized)
    columns = quantized.shape[-1]
    # The positions ascend: those of a row are a run of them.
    first = torch.searchsorted(where, index * columns)
    count = torch.searchsorted(where, (index + 1) * columns) - first
    place = torch.arange(len(index), device=index.device).repeat_interleave(count)
    nth = torch.arange(len(place), device=index.device) - (count.cumsum(0) - count)[place]
    found = first[place] + nth
    rows[place, where[found] % columns] = values[found]
    return rows


def _rows_a_group(columns: int, levels: int) -> int:
    """Rows that together start and end at whole packed groups."""
    digits = layout_of(levels).digits
    return 1 if columns % digits == 0 else digits
