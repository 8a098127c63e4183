"""Codes of a matrix, every column as wide as its codes need, columns of one width packed together.

A column of width w holds codes of sizes below 2^(w-1), one of width 0 none but 0; codes that do not fit are kept apart.
Columns stand in a given order, in groups of one width. A row of a group of n columns of width w = 2 … 8 takes
ceil(n/8)·w bytes, in which code + 2^(w-1) are packed as octavo.kernels.layout has it (the last may stand for no column:
they are 0); of width 16 codes are int16, little endian; of width 0 nothing is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.base.errors import FormatError
from octavo.kernels.backends import column_codes_backend
from octavo.kernels.column_widths import WIDTHS, Far, Group, row_bytes


def count_widths(codes: NDArray[np.int16]) -> NDArray[np.int64]:
    """For every column how many codes need each of `WIDTHS`, [columns, widths]."""
    _check(codes)
    return column_codes_backend().count_widths(codes)


def pack_columns(
    codes: NDArray[np.int16], order: NDArray[np.int32], groups: Sequence[Group], apart: int
) -> tuple[list[NDArray[np.uint8]], Far]:
    """The groups' bytes, each [rows, bytes], and the codes apart.

    Args:
        codes: [rows, columns].
        order: columns in the order in which they stand.
        groups: of columns that follow each other, of all columns together.
        apart: how many codes do not fit their columns.

    Raises:
        FormatError: the groups, the order or the number do not fit the codes.
    """
    _check(codes)
    if sorted(order.tolist()) != [*range(codes.shape[1])] or sum(count for _, count in groups) != len(order):
        raise FormatError("the groups do not fit the columns of codes", "give every column a place in one of them")
    if any(width not in WIDTHS for width, _ in groups):
        raise FormatError("a column cannot have such a width", f"choose one of {WIDTHS}")
    # Torch's memory begins with a line of the cache, numpy's does not.
    outs = [torch.empty(len(codes), row_bytes(*group), dtype=torch.uint8).numpy() for group in groups]
    far = Far.room(apart)
    column_codes_backend().pack_columns(codes, order, groups, outs, far)
    return outs, far


def _check(codes: NDArray[np.int16]) -> None:
    if codes.ndim != 2 or codes.dtype != np.int16 or not codes.flags.c_contiguous:
        raise FormatError(f"{codes.dtype} codes of shape {codes.shape} are no matrix", "pass int16 codes by rows")
