"""Which frequency table a grid index is coded with: the bin of the scale predicted from its row and its column.

Both sides know the root mean square of every row and every column of the grid's indices, in quarter octaves. The
predicted scale of index (i, j) is row_i · column_j; its bin, one, two or four to the octave, is the context.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo.kernels.scale_contexts import FINEST, FLOOR, WIDTHS, contexts

__all__ = ["FINEST", "FLOOR", "QUARTERS", "WIDTHS", "center", "contexts", "power", "quarter_log2"]

QUARTERS = 4
"""Resolution of all stored logarithms: quarter octaves."""


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
