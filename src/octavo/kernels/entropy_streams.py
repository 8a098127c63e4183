"""What an entropy coder is given besides its words: frequency tables, the layout of a grid, a machine of states.

The coder of every stream here is constriction's ANS coder: a state of 64 bits, words of 32 bits, probabilities of 24
bits. A symbol of left cumulative l and probability p takes a state s to (s div p)·2^24 + l + (s mod p), after the lower
half of s was written as a word if (s >> 40) >= p; decoding is the reverse, and reads a word whenever s < 2^32.

Two kinds of block:

- *grouped*: a block's integers by context, ascending, in their own order inside a context; one coder, whose words are
  read from the last to the first and whose state begins at 0. This is constriction's `AnsCoder`, word for word.
- *rows*: a block is a strip of columns, row by row; the integers of its columns j, j + LANES, … belong to coder
  j mod LANES. First come the coders' states (each two words, the lower first), then the words of all coders in the
  order in which the decoder takes them in. Every coder's state ends, for the decoder, at 2^32. In this order a context
  may depend on the indices above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from octavo.base.errors import CheckpointError, FormatError
from octavo.kernels.scale_contexts import FINEST, WIDTHS
from octavo.kernels.trellis import polynomials

PRECISION = 24
"""Bits of a probability."""

LANES = 4
"""Coders that share the words of a block in row order."""

_LARGEST = 2**15 - 1


def damaged() -> CheckpointError:
    """The error of bytes that no encoder wrote."""
    return CheckpointError("an entropy-coded tensor is damaged", "fetch the checkpoint, or compress the model, again")


def cumulative(weights: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Left cumulatives of a table's symbols, then 2^24: exactly constriction's `Categorical(perfect=False)`.

    Every symbol has one quantile of its own; the others are dealt out by running sums in float32. At the end of a
    very uneven table rounding may leave a symbol none: it has no code.

    Args:
        weights: relative weights of at least two symbols, float32.
    """
    sums = np.add.accumulate(weights, dtype=np.float32)
    scale = np.float32((1 << PRECISION) - len(weights)) / sums[-1]
    left = (np.concatenate([np.zeros(1, np.float32), sums[:-1]]) * scale).astype(np.int64) + np.arange(len(weights))
    return np.minimum(np.append(left, 1 << PRECISION), 1 << PRECISION).astype(np.uint32)


@dataclass(frozen=True, eq=False)
class Tables:
    """Frequency tables by context.

    Attributes:
        weights: relative weights of each table's symbols, float32, at least two; None where a context has no table.
        lowest: the integer that each table's symbol 0 stands for.

    Raises:
        FormatError: a table's integers do not fit 16 bits.
    """

    weights: Sequence[NDArray[np.float32] | None]
    lowest: NDArray[np.int32]

    def __post_init__(self) -> None:
        for weights, lowest in zip(self.weights, self.lowest.tolist(), strict=True):
            if weights is not None and max(-lowest, lowest + len(weights) - 1) > _LARGEST:
                raise FormatError("a frequency table is too long", f"code integers of magnitudes up to {_LARGEST}")

    def __len__(self) -> int:
        return len(self.weights)

    @cached_property
    def cumulatives(self) -> list[NDArray[np.uint32]]:
        """Those of each table; empty where there is none."""
        return [np.zeros(0, np.uint32) if w is None else cumulative(w) for w in self.weights]

    @cached_property
    def bounds(self) -> NDArray[np.int64]:
        """Where each table's cumulatives begin, all written one after the other."""
        return np.cumsum([0, *map(len, self.cumulatives)], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Layout:
    """How the indices of a grid are coded.

    Attributes:
        row_scale: log2 scale of each row, quarter octaves.
        column_scale: log2 scale of each column, quarter octaves.
        width: quarter octaves to a context: 1, 2 or 4.
        extent: rows of a grouped block, columns of a block in row order; blocks are coded independently.

    Raises:
        FormatError: there are no weights, or such a width or extent is impossible.
    """

    row_scale: NDArray[np.int16]
    column_scale: NDArray[np.int16]
    width: int
    extent: int

    def __post_init__(self) -> None:
        if self.width not in WIDTHS or self.extent < 1 or 0 in self.shape:
            raise FormatError(
                f"a grid of shape {self.shape} cannot be coded in blocks of {self.extent} at width {self.width}",
                f"use a grid that is not empty, blocks of at least one row or column and a width of {WIDTHS}",
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.row_scale), len(self.column_scale)

    @property
    def contexts(self) -> int:
        """How many contexts there are."""
        return FINEST // self.width

    def grouped(self) -> list[slice]:
        """The rows of each grouped block."""
        return self._blocks(len(self.row_scale))

    def strips(self) -> list[slice]:
        """The columns of each block in row order."""
        return self._blocks(len(self.column_scale))

    def _blocks(self, side: int) -> list[slice]:
        return [slice(first, min(first + self.extent, side)) for first in range(0, side, self.extent)]


@dataclass(frozen=True, eq=False)
class Machine:
    """States that a column of indices runs through, from state 0 at the top of every block.

    In state s an index of context c is coded with table quantizer[s] · contexts + c, and its parity leads to the state
    next[s, parity].

    Attributes:
        next: uint8 [states, 2].
        quantizer: uint8 [states].

    Raises:
        FormatError: a state leads to one that does not exist.
    """

    next: NDArray[np.uint8]
    quantizer: NDArray[np.uint8]

    def __post_init__(self) -> None:
        states = len(self.quantizer)
        if not 1 <= states <= 256 or self.next.shape != (states, 2) or int(self.next.max()) >= states:
            raise FormatError("a state machine leads out of its states", "give two next states below their number each")

    @property
    def quantizers(self) -> int:
        """How many sets of tables there are."""
        return int(self.quantizer.max()) + 1


@dataclass(frozen=True, eq=False)
class Place:
    """Where the decoder of blocks in row order stands; it moves with the rows that are decoded.

    Attributes:
        coders: uint64 [blocks, LANES + 1], the states of each block's coders and how many words they have taken.
        states: uint8 [columns], of the machine.
    """

    coders: NDArray[np.uint64]
    states: NDArray[np.uint8]

    @classmethod
    def top(cls, layout: Layout) -> Place:
        """Before the first row."""
        return cls(np.zeros((len(layout.strips()), LANES + 1), np.uint64), np.zeros(layout.shape[1], np.uint8))


STATELESS = Machine(np.zeros((1, 2), np.uint8), np.zeros(1, np.uint8))
"""The machine of grids whose contexts depend on nothing but scales."""


@cache
def trellis_machine(states: int) -> Machine:
    """The machine whose quantizers are those of a trellis (octavo.kernels.trellis).

    Raises:
        FormatError: there is no trellis of so many states.
    """
    h0, h1 = polynomials(states)
    state = np.arange(states)
    following = (state >> 1) ^ np.where(state & 1, h0, 0)
    return Machine(np.stack([following, following ^ h1], 1).astype(np.uint8), (state & 1).astype(np.uint8))
