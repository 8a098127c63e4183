"""Codes packed in columns of unequal width, in numpy; a few rows at a time, so that it takes little memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.base.errors import FormatError
from octavo.kernels.column_widths import TOGETHER, WIDTHS, Far, Group
from octavo.kernels.reference.packing import pack

RUN = 1 << 18
"""Codes that are looked at together."""


def count_widths(codes: NDArray[np.int16]) -> NDArray[np.int64]:
    counts = np.zeros((codes.shape[1], len(WIDTHS)), np.int64)
    kinds = len(WIDTHS) * np.arange(codes.shape[1], dtype=np.int32)
    for run in _runs(codes):
        kind = _needed()[np.abs(codes[run])] + kinds
        counts += np.bincount(kind.ravel(), minlength=counts.size).reshape(counts.shape)
    return counts


def pack_columns(
    codes: NDArray[np.int16],
    order: NDArray[np.int32],
    groups: Sequence[Group],
    outs: Sequence[NDArray[np.uint8]],
    far: Far,
) -> None:
    number = np.empty(len(order), np.uint8)
    number[order] = np.repeat([WIDTHS.index(width) for width, _ in groups], [count for _, count in groups])
    done = 0
    for run in _runs(codes):
        own = codes[run]
        beyond = _needed()[np.abs(own)] > number
        row, column = np.nonzero(beyond)
        mine = slice(done, done + len(row))
        if mine.stop > len(far.row):
            break
        far.row[mine], far.column[mine], far.code[mine] = row + run.start, column, own[beyond]
        done = mine.stop
        near, first = np.where(beyond, np.int16(0), own)[:, order], 0
        for (width, count), out in zip(groups, outs, strict=True):
            if width:
                out[run] = _packed(near[:, first : first + count], width)
            first += count
    else:
        if done == len(far.row):
            return
    raise FormatError(f"there are not {len(far.row)} codes apart", "count those that do not fit their columns")


def _runs(codes: NDArray[np.int16]) -> list[slice]:
    rows, columns = codes.shape
    height = max(1, RUN // columns)
    return [slice(start, min(start + height, rows)) for start in range(0, rows, height)]


@cache
def _needed() -> NDArray[np.uint8]:
    """For every size of a code the place in `WIDTHS` of the narrowest width that holds it."""
    size = np.arange(1 << 15)
    bits = np.where(size > 0, np.ceil(np.log2(size + 1)) + 1, 0)
    return np.searchsorted(WIDTHS, bits).astype(np.uint8)


def _packed(codes: NDArray[np.int16], width: int) -> NDArray[np.uint8]:
    rows, columns = codes.shape
    if width == 16:
        return np.ascontiguousarray(codes, "<i2").view(np.uint8)
    padded = np.zeros((rows, -(-columns // TOGETHER) * TOGETHER), np.uint8)
    padded[:, :columns] = codes + (1 << (width - 1))
    return pack(torch.from_numpy(padded).flatten(), 1 << width).view(rows, -1).numpy()
