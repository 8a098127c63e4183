"""Which frequency table a grid index is coded with: the bin of the scale predicted from its row and its column.

The predicted scale of index (i, j) is row_i · column_j, both stored as logarithms in quarter octaves; its bin, one, two
or four to the octave, is the context.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
    # Bounding each side first keeps the sum inside int16. On a single column np.clip takes several times as long.
    first, second = (np.minimum(np.maximum(side, -999), 999) for side in (row, column))
    sums = (first + np.int16(FLOOR))[:, None] + second
    np.maximum(sums, 0, out=sums)
    np.minimum(sums, FINEST - 1, out=sums)
    found = sums.astype(np.uint8)
    return found if width == 1 else found // np.uint8(width)
