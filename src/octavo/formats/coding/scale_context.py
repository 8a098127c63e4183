"""Which frequency table a grid index is coded with: the bin of the scale predicted from its row and its column.

Both sides know the root mean square of every row and every column of the grid's indices, in quarter octaves. The
predicted scale of index (i, j) is row_i · column_j; its bin, one, two or four to the octave, is the context.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

QUARTERS = 4
"""Resolution of all stored logarithms: quarter octaves."""

FLOOR = 12
"""Scales below 2^(-FLOOR/4) share the lowest context: nearly every index there is 0."""

FINEST = 48
"""Contexts at the finest width, one quarter octave: scales of up to 2^9 steps."""

WIDTHS = (1, 2, 4)
"""Context widths in quarter octaves."""


def contexts(row: NDArray[np.int16], column: NDArray[np.int16], width: int = 1) -> NDArray[np.uint8]:
    """Context of every index.

    Args:
        row: log2 scale of each row, quarter octaves.
        column: log2 scale of each column relative to the whole, quarter octaves.
        width: quarter octaves to a context.

    Returns:
        uint8 [rows, columns].
    """
    # Clipping each side first keeps the sum inside int16.
    sums = np.clip(row, -999, 999)[:, None] + np.clip(column, -999, 999)[None, :]
    return (np.clip(sums + FLOOR, 0, FINEST - 1) // width).astype(np.uint8)


def center(width: int = 1) -> NDArray[np.float64]:
    """Predicted scale in the middle of each context, in grid steps."""
    first = np.arange(0, FINEST, width)
    return 2.0 ** ((first + (width - 1) / 2 - FLOOR) / QUARTERS)


def quarter_log2(values: NDArray[np.floating], floor: float = 1e-30) -> NDArray[np.int16]:
    """log2 in quarter octaves, rounded."""
    return np.rint(QUARTERS * np.log2(np.maximum(values, floor))).astype(np.int16)


def power(quarters: NDArray[np.integer]) -> NDArray[np.float32]:
    """2^(quarters/4) in float32, exactly the same on every machine (a table and a shift of the exponent)."""
    fractions = np.array([1.0, 1.189207115002721, 1.4142135623730951, 1.681792830507429], dtype=np.float32)
    quarters = quarters.astype(np.int32)
    return np.ldexp(fractions[quarters % QUARTERS], quarters // QUARTERS)
