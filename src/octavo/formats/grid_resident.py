"""Grid indices as they are kept in memory: one byte a weight, two where the indices are large.

A grid's bit stream cannot be computed with. Decoded, its indices go up to 511, and nearly all of them fit into a byte.
Those that do not stand together, in the columns (inputs) or rows (tokens of a vocabulary) that matter most; whichever
takes less memory is kept in two bytes beside the others. The parts, which are never stored in a file:

- `codes`: int8 [rows, columns], the values in steps (of a trellis: in half steps), 0 where a weight is in a wide
  column or row;
- `row_step`, `column_step`, `step`, `points`: see octavo.formats.entropy_coded;
- `wide` and `wide_codes`: int32 [k] and int16 [rows, k], the wide columns; or
- `wide_rows` and `wide_row_codes`: int32 [k] and int16 [k, columns], the wide rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from jaxtyping import Float32, Int16, Int64
from numpy.typing import NDArray
from torch import Tensor

from octavo import kernels
from octavo.formats.coding import scale_context
from octavo.formats.grid_census import NARROW, POINTS

OCTAVES = 126
"""Row and column steps lie within 2^±126: they and their products by a fraction are normal numbers in float32."""

_FARTHEST = OCTAVES * scale_context.QUARTERS


def narrowed(codes: NDArray[np.int16]) -> dict[str, Tensor]:
    """The parts that hold a matrix of indices."""
    magnitudes = np.abs(codes)
    rows, columns = (np.flatnonzero(magnitudes.max(axis) > NARROW) for axis in (1, 0))
    by_row, by_column = _wide_bits(codes.shape, len(rows), len(columns))
    apart = {}
    if by_row < by_column:
        apart = {"wide_rows": rows.astype(np.int32), "wide_row_codes": codes[rows]}
        codes[rows] = 0
    elif len(columns):
        apart = {"wide": columns.astype(np.int32), "wide_codes": np.ascontiguousarray(codes[:, columns])}
        codes[:, columns] = 0
    return {name: torch.from_numpy(part) for name, part in {"codes": codes.astype(np.int8), **apart}.items()}


def resident_bits(rows: int, columns: int, wide_rows: int, wide_columns: int, quantizers: int = 1) -> int:
    """Bits of a matrix in memory of which so many rows, or so many columns, have indices beyond a byte."""
    points = 2 * quantizers * POINTS + 1
    wide = min(_wide_bits((rows, columns), wide_rows, wide_columns))
    return 8 * rows * columns + wide + 16 * (rows + columns) + 32 * (1 + points)


def dequantize(parts: Mapping[str, Tensor]) -> Float32[Tensor, "rows columns"]:
    """The values of a matrix."""
    codes, points = parts["codes"], parts["points"]
    row, column = steps(parts)
    if "wide_rows" in parts:
        wide = parts["wide_rows"].long()
        wide_values = kernels.separable_dequantize(parts["wide_row_codes"], row[wide], column, points)
        return kernels.separable_dequantize(codes, row, column, points).index_copy_(0, wide, wide_values)
    if "wide" not in parts:
        return kernels.separable_dequantize(codes, row, column, points)
    wide = parts["wide"].long()
    wide_values = kernels.separable_dequantize(parts["wide_codes"], row, column[wide], points)
    if len(wide) == codes.shape[1]:
        return wide_values
    values = kernels.separable_dequantize(codes, row, column, points)
    # Several times as fast as assigning to values[:, wide].
    return values.scatter_(1, wide.expand(wide_values.shape), wide_values)


def widened(parts: Mapping[str, Tensor]) -> Int16[Tensor, "rows columns"]:
    """The indices of a matrix: what `narrowed` was given."""
    codes = parts["codes"].to(torch.int16)
    if "wide" in parts:
        codes.index_copy_(1, parts["wide"].long(), parts["wide_codes"])
    if "wide_rows" in parts:
        codes.index_copy_(0, parts["wide_rows"].long(), parts["wide_row_codes"])
    return codes


def take_rows(parts: Mapping[str, Tensor], rows: slice | Int64[Tensor, " rows"]) -> dict[str, Tensor]:
    """The parts of some rows: of a slice without copying, or of row numbers in any order."""
    taken = {**parts, "codes": parts["codes"][rows], "row_step": parts["row_step"][rows]}
    if "wide_codes" in parts:
        taken["wide_codes"] = parts["wide_codes"][rows]
    if "wide_rows" in parts:
        wide = parts["wide_rows"].long()
        numbers = torch.arange(rows.start, rows.stop, device=wide.device) if isinstance(rows, slice) else rows
        position = torch.searchsorted(wide, numbers).clamp_max(len(wide) - 1)
        here = (wide[position] == numbers).nonzero().flatten()
        taken |= {"wide_rows": here, "wide_row_codes": parts["wide_row_codes"][position[here]]}
    return taken


def _wide_bits(shape: tuple[int, ...], wide_rows: int, wide_columns: int) -> tuple[int, int]:
    """Bits of the wide parts by row and by column."""
    rows, columns = shape
    return (16 * columns + 32) * wide_rows, (16 * rows + 32) * wide_columns


def steps(parts: Mapping[str, Tensor]) -> tuple[Float32[Tensor, " rows"], Float32[Tensor, " columns"]]:
    """The factors whose products are the steps of a matrix's weights."""
    return _steps(parts["row_step"]), _steps(parts["column_step"]) * parts["step"]


def _steps(quarters: Int16[Tensor, " side"]) -> Float32[Tensor, " side"]:
    """The steps whose inverses' logarithms these are."""
    # Looked up by numpy, whose indexing starts no threads: dequantizing a slab takes less time than waking them.
    return torch.from_numpy(_inverse_powers()[quarters.cpu().numpy() + _FARTHEST]).to(quarters.device)


@cache
def _inverse_powers() -> NDArray[np.float32]:
    return np.float32(1) / scale_context.power(np.arange(-_FARTHEST, _FARTHEST + 1))
