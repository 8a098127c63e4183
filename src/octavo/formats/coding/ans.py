"""Context-modeled entropy coding of integers: bit exact, in independent blocks, as constriction's ANS coder does.

Every integer has a *context*, a small number that both sides know beforehand (here: the bin of its predicted scale).
All integers of one context share a frequency table. The tables are part of the file, so that decoding needs no
floating-point function to agree between machines: an entry is one byte, v, and stands for a weight of 2^(-v/8).

Layout of the parts:

- tables: a raw deflate stream (RFC 1951) of a bit map of the contexts that are used, lowest context in the lowest bit
  of the first byte; the lower bytes, then the upper bytes, of ``last`` of each of them; and the ``last + 1`` entries of
  each. All but the bit map are differences: of ``last`` to that of the context before, of an entry to the one before in
  its table, from 0 on and wrapping around. A symmetric table's entry k gives the weight of k and of -k; a one-sided
  table is for integers 0, 1, …
- blocks: ANS words of 32 bits, little endian.

Inside a block the integers are grouped by context in ascending order and keep their order inside a context.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from octavo.base.errors import FormatError
from octavo.kernels import entropy
from octavo.kernels.entropy_streams import Tables, damaged

_EIGHTHS = np.array(
    [
        1.0,
        0.9170040432046712,
        0.8408964152537145,
        0.7711054127039704,
        0.7071067811865476,
        0.6484197773255048,
        0.5946035575013605,
        0.5452538663326288,
    ]
)
_ZERO_COUNT = 255
_RAW = -15  # neither header nor checksum
_LONGEST = 1 << 16

RAREST = 2.0**-20
"""Least probability of an integer that occurs. The coder's probabilities have 24 bits and are differences of running
sums in float32: a smaller one could vanish, and the integer would have no code."""


Integers = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Table:
    """Frequencies of one context's integers, at one byte an entry.

    Attributes:
        entries: -8·log2 of the relative weight of index k = 0, 1, …
        symmetric: index k stands for both signs.
    """

    entries: NDArray[np.uint8]
    symmetric: bool = True

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Relative weights, from the lowest integer to the highest."""
        entries = self.entries.astype(np.int64)
        half = np.ldexp(_EIGHTHS[entries % 8], -(entries // 8).astype(np.int32))
        if not self.symmetric:
            return half
        return np.concatenate([half[:0:-1], half])

    @property
    def lowest(self) -> int:
        """The integer that symbol 0 of the coder stands for."""
        return 1 - len(self.entries) if self.symmetric else 0

    def cost(self, counts: NDArray[np.int64]) -> float:
        """Bits of integers whose magnitudes occur `counts` times, signs included."""
        weights = self.weights / self.weights.sum()
        half = weights[-len(self.entries) :]
        used = counts > 0
        return float(-(counts[used] * np.log2(half[used])).sum())


def fit_table(counts: NDArray[np.int64], symmetric: bool = True) -> Table:
    """Table for integers that occur `counts` times.

    Args:
        counts: occurrences of 0, 1, …; both signs together where `symmetric`. At most 32,768.
        symmetric: as in `Table`.
    """
    last = int(np.flatnonzero(counts)[-1])
    weights = counts[: last + 1].astype(np.float64)
    if symmetric:
        weights[1:] /= 2
    relative = np.full(len(weights), _ZERO_COUNT, dtype=np.float64)
    seen = weights > 0
    raised = np.maximum(weights[seen], counts.sum() * RAREST)
    relative[seen] = np.rint(8 * np.log2(weights.max() / raised))
    return Table(np.clip(relative, 0, _ZERO_COUNT).astype(np.uint8), symmetric)


def pack_tables(tables: list[Table | None]) -> NDArray[np.uint8]:
    """The bytes of the tables of all contexts; an unused context has none."""
    used = np.packbits([table is not None for table in tables], bitorder="little")
    entries = [table.entries for table in tables if table is not None]
    last = np.diff([0, *(len(each) - 1 for each in entries)]).astype("<u2").view(np.uint8).reshape(-1, 2)
    steps = [np.diff(each, prepend=np.uint8(0)) for each in entries]
    deflate = zlib.compressobj(9, wbits=_RAW)
    packed = deflate.compress(np.concatenate([used, last.T.reshape(-1), *steps]).tobytes()) + deflate.flush()
    return np.frombuffer(packed, np.uint8)


def unpack_tables(packed: NDArray[np.uint8], contexts: int, symmetric: bool = True) -> list[Table | None]:
    """Read back what `pack_tables` wrote.

    Raises:
        CheckpointError: the bytes end early or go on too long.
    """
    head = -(-contexts // 8)
    inflate = zlib.decompressobj(wbits=_RAW)
    try:
        plain = np.frombuffer(inflate.decompress(packed.tobytes(), head + contexts * (2 + _LONGEST)), np.uint8)
    except zlib.error as error:
        raise damaged() from error
    used = np.unpackbits(plain[:head], bitorder="little")
    number = int(used.sum())
    if not inflate.eof or inflate.unused_data or len(plain) < head + 2 * number or used[contexts:].any():
        raise damaged()
    last = plain[head : head + 2 * number].reshape(2, -1).T.copy().view("<u2").reshape(-1)
    sizes = np.cumsum(last, dtype=np.uint16).astype(np.int64) + 1
    bounds = head + 2 * number + np.cumsum([0, *sizes.tolist()])
    if bounds[-1] != len(plain):
        raise damaged()
    entries = iter(np.cumsum(plain[first:end], dtype=np.uint8) for first, end in pairwise(bounds.tolist()))
    return [Table(next(entries), symmetric) if present else None for present in used[:contexts]]


def coder_tables(tables: list[Table | None]) -> Tables:
    """The tables as the coder takes them.

    Raises:
        CheckpointError: a table is longer than any that `fit_table` makes.
    """
    weights = []
    for table in tables:
        relative = None if table is None else table.weights.astype(np.float32)
        # The coder needs two symbols; the second is never coded.
        weights.append(np.array([1, 0], np.float32) if relative is not None and len(relative) == 1 else relative)
    lowest = np.array([0 if table is None else table.lowest for table in tables], np.int32)
    try:
        return Tables(weights, lowest)
    except FormatError as error:
        raise damaged() from error


def encode(integers: Integers, contexts: NDArray[np.uint8], tables: list[Table | None]) -> NDArray[np.uint32]:
    """Code one block.

    Args:
        integers: each within its context's table.
        contexts: the context of each integer.
        tables: by context.

    Returns:
        ANS words.

    Raises:
        FormatError: an integer is not in its context's table.
    """
    grouped = integers[np.argsort(contexts, kind="stable")]
    return entropy.encode_grouped(grouped, _counts(contexts, tables), coder_tables(tables))[0]


def decode(words: NDArray[np.uint32], contexts: NDArray[np.uint8], tables: list[Table | None]) -> Integers:
    """Decode one block; the inverse of `encode`.

    Raises:
        CheckpointError: the words do not belong to these contexts and tables.
    """
    lengths = np.array([len(words)])
    grouped = entropy.decode_grouped(words, lengths, _counts(contexts, tables), coder_tables(tables))
    out = np.empty(len(grouped), np.int32)
    out[np.argsort(contexts, kind="stable")] = grouped
    return out


def _counts(contexts: NDArray[np.uint8], tables: list[Table | None]) -> NDArray[np.int64]:
    return np.bincount(contexts, minlength=len(tables))[None, :]
