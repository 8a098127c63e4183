"""What the bytes of every coded tensor begin with, and how they are cut."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo.base.errors import CheckpointError
from octavo.formats.coding.ans import damaged

VERSION = 3
"""Earlier ones are not read: their tables were not deflated, and their paths through a trellis ended every few rows."""


def check_version(coded: NDArray[np.uint8], size: int) -> None:
    """Refuse what has no header of `size` bytes, or one of another version.

    Raises:
        CheckpointError: so it is.
    """
    if len(coded) < size:
        raise damaged()
    if coded[0] != VERSION:
        raise CheckpointError(
            f"the coded tensor has version {coded[0]}", f"this octavo reads version {VERSION}; compress the model again"
        )


def sections(data: NDArray[np.uint8], *sizes: int) -> list[NDArray[np.uint8]]:
    """Cut data into sections of the given sizes and the rest; none is copied, and so none is aligned.

    Raises:
        CheckpointError: the data end before.
    """
    if sum(sizes) > len(data):
        raise damaged()
    return np.split(data, np.cumsum(sizes))


def words_of(data: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """A copy of little-endian words, aligned."""
    return np.frombuffer(data.tobytes(), "<u4")


def some_blocks(
    words: NDArray[np.uint8], lengths: NDArray[np.int64], first: int, count: int
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Words and lengths of some blocks that follow each other.

    Args:
        words: of all blocks, as bytes.
        lengths: words of each block.
        first: block.
        count: of blocks; fewer where there are not so many.
    """
    start, own = 4 * int(lengths[:first].sum()), lengths[first : first + count]
    return words_of(words[start : start + 4 * int(own.sum())]), own
