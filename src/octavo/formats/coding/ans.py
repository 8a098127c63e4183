"""Context-modeled entropy coding of integers: bit exact, in independent blocks, on constriction's ANS coder.

Every integer has a *context*, a small number that both sides know beforehand (here: the bin of its predicted scale).
All integers of one context share a frequency table. The tables are part of the file, so that decoding needs no
floating-point function to agree between machines: an entry is one byte, v, and stands for a weight of 2^(-v/8).

Layout of the parts:

- tables: a bit map of the contexts that are used, lowest context in the lowest bit of the first byte; then for each of
  them ``last`` in two bytes, little endian, and ``last + 1`` entries. A symmetric table's entry k gives the weight of k
  and of -k; a one-sided table is for integers 0, 1, …
- blocks: ANS words of 32 bits, little endian.

Inside a block the integers are grouped by context in ascending order and keep their order inside a context.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from octavo.base.errors import CheckpointError

# A compiled module without type stubs.
_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]

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

    @cached_property
    def model(self) -> Any:
        weights = self.weights
        if len(weights) == 1:  # constriction needs two symbols; the second is never coded
            weights = np.array([1.0, 0.0])
        return _stream.model.Categorical(weights.astype(np.float32), perfect=False)

    def cost(self, counts: NDArray[np.int64]) -> float:
        """Bits of integers whose magnitudes occur `counts` times, signs included."""
        weights = self.weights / self.weights.sum()
        half = weights[-len(self.entries) :]
        used = counts > 0
        return float(-(counts[used] * np.log2(half[used])).sum())


def fit_table(counts: NDArray[np.int64], symmetric: bool = True) -> Table:
    """Table for integers that occur `counts` times.

    Args:
        counts: occurrences of 0, 1, …; both signs together where `symmetric`. At most 65,536.
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
    used = np.array([table is not None for table in tables])
    out = bytearray(np.packbits(used, bitorder="little").tobytes())
    for table in tables:
        if table is not None:
            out += (len(table.entries) - 1).to_bytes(2, "little")
            out += table.entries.tobytes()
    return np.frombuffer(bytes(out), dtype=np.uint8)


def unpack_tables(packed: NDArray[np.uint8], contexts: int, symmetric: bool = True) -> list[Table | None]:
    """Read back what `pack_tables` wrote.

    Raises:
        CheckpointError: the bytes end early or go on too long.
    """
    position = -(-contexts // 8)
    used = np.unpackbits(packed[:position], bitorder="little")
    if len(packed) < position or used[contexts:].any():
        raise damaged()
    tables: list[Table | None] = []
    for present in used[:contexts]:
        if not present:
            tables.append(None)
            continue
        if position + 2 > len(packed):
            raise damaged()
        size = int.from_bytes(packed[position : position + 2].tobytes(), "little") + 1
        position += 2 + size
        if position > len(packed):
            raise damaged()
        tables.append(Table(packed[position - size : position], symmetric))
    if position != len(packed):
        raise damaged()
    return tables


def encode(integers: Integers, contexts: NDArray[np.uint8], tables: list[Table | None]) -> NDArray[np.uint32]:
    """Code one block.

    Args:
        integers: int32, each within its context's table.
        contexts: the context of each integer.
        tables: by context.

    Returns:
        ANS words.
    """
    ordered, bounds = _by_context(contexts, len(tables))
    integers = integers[ordered] if ordered is not None else integers
    coder = _stream.stack.AnsCoder()
    for context in range(len(tables) - 1, -1, -1):  # a stack: last in, first out
        first, last = bounds[context], bounds[context + 1]
        if first == last:
            continue
        table = tables[context]
        if table is None:
            raise AssertionError(f"context {context} is used but has no table")
        coder.encode_reverse((integers[first:last] - table.lowest).astype(np.int32), table.model)
    return coder.get_compressed()


def decode(words: NDArray[np.uint32], contexts: NDArray[np.uint8], tables: list[Table | None]) -> Integers:
    """Decode one block; the inverse of `encode`.

    Raises:
        CheckpointError: the words do not belong to these contexts and tables.
    """
    ordered, bounds = _by_context(contexts, len(tables))
    try:
        coder = _stream.stack.AnsCoder(words)
        pieces = []
        for context, table in enumerate(tables):
            count = int(bounds[context + 1] - bounds[context])
            if count == 0:
                continue
            if table is None:
                raise damaged()
            pieces.append(coder.decode(table.model, count) + np.int32(table.lowest))
    except ValueError as error:  # constriction refuses words that cannot come from an encoder
        raise damaged() from error
    if not coder.is_empty():
        raise damaged()
    grouped = np.concatenate(pieces) if pieces else np.zeros(0, np.int32)
    if ordered is None:
        return grouped
    out = np.empty_like(grouped)
    out[ordered] = grouped
    return out


def damaged() -> CheckpointError:
    """The error of bytes that no encoder wrote."""
    return CheckpointError("an entropy-coded tensor is damaged", "fetch the checkpoint, or compress the model, again")


def _by_context(contexts: NDArray[np.uint8], count: int) -> tuple[NDArray[np.int64] | None, NDArray[np.int64]]:
    """Stable order by context (None where all are alike), and where each context begins."""
    bounds = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(contexts, minlength=count), out=bounds[1:])
    if count == 1:
        return None, bounds
    return np.argsort(contexts, kind="stable"), bounds  # a radix sort for bytes
