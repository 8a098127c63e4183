"""The widths that columns of codes may have, and what is packed of them: see octavo.kernels.column_codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTHS = (0, 2, 3, 4, 5, 6, 7, 8, 16)
"""Bits that a column's codes may take."""

TOGETHER = 8
"""Codes that fill whole bytes whatever their width."""

Group = tuple[int, int]
"""A width, and how many columns have it."""


@dataclass(frozen=True, eq=False)
class Far:
    """Codes that do not fit their columns, in the order of rows, of columns in a row."""

    row: NDArray[np.int32]
    column: NDArray[np.int32]
    code: NDArray[np.int16]

    @classmethod
    def room(cls, count: int) -> Far:
        return cls(np.empty(count, np.int32), np.empty(count, np.int32), np.empty(count, np.int16))


def row_bytes(width: int, count: int) -> int:
    """Bytes of a row of a group."""
    return 2 * count if width == 16 else -(-count // TOGETHER) * width
