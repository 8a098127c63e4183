"""Codes packed in columns of unequal width, in C++, over as many threads as torch uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.base.errors import FormatError
from octavo.kernels import cpu
from octavo.kernels.column_widths import WIDTHS, Far, Group


def count_widths(codes: NDArray[np.int16]) -> NDArray[np.int64]:
    counts = np.empty((codes.shape[1], len(WIDTHS)), np.int64)
    cpu._extension().count_widths(codes, counts, torch.get_num_threads())
    return counts


def pack_columns(
    codes: NDArray[np.int16],
    order: NDArray[np.int32],
    groups: Sequence[Group],
    outs: Sequence[NDArray[np.uint8]],
    far: Far,
) -> None:
    given = [(width, count, out) for (width, count), out in zip(groups, outs, strict=True)]
    parts = far.row, far.column, far.code
    if not cpu._extension().pack_columns(codes, order, given, *parts, torch.get_num_threads()):
        raise FormatError(f"there are not {len(far.row)} codes apart", "count those that do not fit their columns")
