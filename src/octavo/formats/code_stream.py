"""The bytes of entropy-coded codes of a codebook, written and read; also block by block.

`coded` takes the place of `codes`: version, three zero bytes, uint32 bytes of the table, uint32 blocks, the table, the
blocks' lengths, their words (a block being 2^17 codes).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.formats.coding import ans
from octavo.formats.coding.sections import VERSION, check_version, sections, some_blocks, words_of
from octavo.kernels import entropy
from octavo.kernels.entropy_streams import Tables

CODES = 1 << 17
"""Codes to a block."""

_HEADER = struct.Struct("<BxxxII")


def encode_codes(codes: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The bytes of codes."""
    tables: list[ans.Table | None] = [ans.fit_table(np.bincount(codes), symmetric=False)]
    words, lengths = entropy.encode_grouped(codes, _counts(len(codes)), ans.coder_tables(tables))
    packed = ans.pack_tables(tables)
    header = np.frombuffer(_HEADER.pack(VERSION, len(packed), len(lengths)), np.uint8)
    return np.concatenate([header, packed, *(part.astype("<u4").view(np.uint8) for part in (lengths, words))])


@dataclass(frozen=True, eq=False)
class CodeStream:
    """The bytes of codes, looked at but not decoded.

    Attributes:
        count: of codes.
        levels: which they lie below.
        tables: one.
        lengths: words of each block.
        words: of all blocks, as bytes.
    """

    count: int
    levels: int
    tables: Tables
    lengths: NDArray[np.int64]
    words: NDArray[np.uint8]

    @classmethod
    def read(cls, coded: NDArray[np.uint8], count: int, levels: int) -> CodeStream:
        """Look at the bytes of so many codes.

        Raises:
            CheckpointError: they are damaged.
        """
        check_version(coded, _HEADER.size)
        _, table_bytes, blocks = _HEADER.unpack(coded[: _HEADER.size].tobytes())
        if blocks != -(-count // CODES):
            raise ans.damaged()
        packed, sizes, words = sections(coded[_HEADER.size :], table_bytes, 4 * blocks)
        lengths = words_of(sizes).astype(np.int64)
        if len(words) != 4 * int(lengths.sum()):
            raise ans.damaged()
        tables = ans.coder_tables(ans.unpack_tables(packed, 1, symmetric=False))
        return cls(count, levels, tables, lengths, words)

    def codes(self, first: int = 0, count: int | None = None) -> NDArray[np.uint8]:
        """The codes of all blocks, or of `count` blocks from the first on.

        Raises:
            CheckpointError: the bytes are damaged.
        """
        count = len(self.lengths) if count is None else count
        blocks = some_blocks(self.words, self.lengths, first, count)
        codes = entropy.decode_grouped(*blocks, _counts(self.count)[first : first + count], self.tables)
        if codes.max() >= self.levels:
            raise ans.damaged()
        return codes.astype(np.uint8)

    def rows(self, columns: int) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
        """Whole rows of so many codes each, in order, with their numbers: of as many blocks as there are threads.

        Raises:
            CheckpointError: the bytes are damaged.
        """
        top, begun = 0, np.zeros(0, np.uint8)
        together = torch.get_num_threads()
        for first in range(0, len(self.lengths), together):
            found = np.concatenate([begun, self.codes(first, together)])
            whole = len(found) // columns
            if whole:
                yield slice(top, top + whole), found[: whole * columns]
            top, begun = top + whole, found[whole * columns :]


def _counts(codes: int) -> NDArray[np.int64]:
    """Codes in each block, all in one context."""
    return np.diff([*range(0, codes, CODES), codes]).astype(np.int64)[:, None]
