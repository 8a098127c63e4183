"""Integers from entropy-coded streams and back; octavo.kernels.entropy_streams says what the streams are.

The reference is constriction's coder, or plain Python for streams in row order; the C++ back end writes and reads the
same words many times as fast, over as many threads as torch uses.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo.base.errors import FormatError
from octavo.kernels.backends import entropy_backend
from octavo.kernels.entropy_streams import STATELESS, Layout, Machine, Place, Tables, damaged

Words = NDArray[np.uint32]
Lengths = NDArray[np.int64]
Indices = NDArray[np.int16]


def decode_grouped(words: Words, lengths: Lengths, counts: NDArray[np.int64], tables: Tables) -> Indices:
    """The integers of grouped blocks.

    Args:
        words: of all blocks.
        lengths: words of each block.
        counts: integers of each context in each block, [blocks, contexts].
        tables: by context.

    Returns:
        int16, block by block, by context inside a block.

    Raises:
        CheckpointError: no encoder wrote these words for such counts and tables.
    """
    _check_lengths(words, lengths, len(counts))
    _check_counts(counts, tables)
    return entropy_backend().decode_grouped(words, lengths, counts, tables)


def encode_grouped(integers: NDArray[np.integer], counts: NDArray[np.int64], tables: Tables) -> tuple[Words, Lengths]:
    """Words and lengths of grouped blocks; arguments as `decode_grouped` has them.

    Raises:
        FormatError: an integer is not in its table, or the counts do not add up.
    """
    _check_counts(counts, tables)
    if int(counts.sum()) != len(integers):
        raise FormatError(f"{len(integers)} integers are not {int(counts.sum())}", "count each of them once")
    narrow = integers.astype(np.int16)
    if not np.array_equal(narrow, integers):
        raise FormatError("an integer does not fit 16 bits", "code integers of small magnitudes")
    return entropy_backend().encode_grouped(narrow, counts, tables)


def decode_grid(words: Words, lengths: Lengths, layout: Layout, tables: Tables) -> Indices:
    """The indices of a grid from grouped blocks, int16 [rows, columns].

    Raises:
        CheckpointError: no encoder wrote these words for such a layout and tables.
    """
    _check_lengths(words, lengths, len(layout.grouped()))
    _check_tables(tables, layout.contexts)
    return entropy_backend().decode_grid(words, lengths, layout, tables)


def encode_grid(indices: Indices, layout: Layout, tables: Tables) -> tuple[Words, Lengths]:
    """Words and lengths of a grid's grouped blocks.

    Raises:
        FormatError: an index is not in its context's table.
    """
    _check_indices(indices, layout)
    _check_tables(tables, layout.contexts)
    return entropy_backend().encode_grid(indices, layout, tables)


def decode_rows(
    words: Words,
    lengths: Lengths,
    layout: Layout,
    tables: Tables,
    machine: Machine = STATELESS,
    positions: bool = False,
    place: Place | None = None,
    more: bool = False,
) -> Indices:
    """The indices of a grid from blocks in row order, int16 [rows, columns].

    Args:
        words: of all blocks.
        lengths: words of each block.
        layout: of the grid, or of some of its rows.
        tables: of the contexts under quantizer 0, then of those under quantizer 1, …
        machine: which quantizer an index has, by the indices above it in its column and block.
        positions: what the index stands for in the place of it: ±k of quantizer q for ±(2k - q), 0 for 0 (see
            octavo.kernels.trellis).
        place: where to go on, which is moved; default: the top.
        more: whether rows follow, so that the words go on.

    Raises:
        CheckpointError: no encoder wrote these words for such a layout and tables.
    """
    _check_lengths(words, lengths, len(layout.strips()))
    _check_tables(tables, layout.contexts * machine.quantizers)
    return entropy_backend().decode_rows(
        words, lengths, layout, tables, machine, positions, place or Place.top(layout), more
    )


def encode_rows(
    indices: Indices, layout: Layout, tables: Tables, machine: Machine = STATELESS
) -> tuple[Words, Lengths]:
    """Words and lengths of a grid's blocks in row order; arguments as `decode_rows` has them.

    Raises:
        FormatError: an index is not in its table.
    """
    _check_indices(indices, layout)
    _check_tables(tables, layout.contexts * machine.quantizers)
    return entropy_backend().encode_rows(indices, layout, tables, machine)


def _check_lengths(words: Words, lengths: Lengths, blocks: int) -> None:
    if len(lengths) != blocks or (lengths < 0).any() or int(lengths.sum()) != len(words):
        raise damaged()


def _check_counts(counts: NDArray[np.int64], tables: Tables) -> None:
    if counts.ndim != 2 or counts.shape[1] != len(tables) or (counts < 0).any():
        raise FormatError(f"counts of shape {counts.shape} do not fit {len(tables)} contexts", "count every context")


def _check_tables(tables: Tables, wanted: int) -> None:
    if len(tables) != wanted or wanted > 256:
        raise FormatError(f"{len(tables)} tables do not fit {wanted} contexts", "give each of up to 256 contexts one")


def _check_indices(indices: Indices, layout: Layout) -> None:
    if indices.shape != layout.shape or indices.dtype != np.int16:
        raise FormatError(
            f"{indices.dtype} indices of shape {indices.shape} do not fit a grid of {layout.shape}",
            "pass int16 indices, one for every row and column",
        )
