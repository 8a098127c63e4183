"""Uniform grids with separable steps, and what they cost: the arithmetic behind the entropy-coded formats.

With an entropy coder behind it, the best scalar quantizer at moderate rate is a uniform grid, and the best step of
weight (i, j) is inversely proportional to the square root of its sensitivity F_ij = r_i c_j (reverse water-filling):
every weight then costs the same expected loss, and unimportant weights cost almost no bits. One number, the common
step, meets a budget. Steps are step · 2^(-(row_i + column_j)/4), row_i and column_j whole quarter octaves.

A grid is scalar, or its indices are a path through a trellis of two quantizers down each column
(octavo.kernels.trellis), of which this step is that of one: the same bits and up to 1.3 dB less error.

Sources: arXiv 2603.04956 (unequal steps), 2505.12988 section 4 (entropy-coded uniform grids).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from octavo import kernels
from octavo.formats import trellis_codes
from octavo.formats.coding import scale_context
from octavo.kernels.backends import plain_backend

CHUNK = 1 << 17
"""Weights to a block: small enough for the cache, large enough that a block's spare bits do not matter."""

NARROWEST = 32
"""Columns to a strip of a tall matrix: a line of the cache."""

THRIFT = 0.06
TRELLIS_THRIFT = 0.075
"""Loss in squared steps that one bit is worth when an index is rounded (see `Grid.thrift`)."""

SAMPLE = 1 << 16
"""Weights that show which law a matrix follows."""

LARGEST = 511
"""Largest index; a column that asks for finer steps does not get them."""


@dataclass(frozen=True, eq=False)
class Steps:
    """The step of every weight: step · 2^(-(row_i + column_j)/4)."""

    step: float
    row: NDArray[np.int16]
    column: NDArray[np.int16]

    @cached_property
    def row_inverse(self) -> NDArray[np.float32]:
        return scale_context.power(self.row)

    @cached_property
    def column_inverse(self) -> NDArray[np.float32]:
        return scale_context.power(self.column) / np.float32(self.step)


@dataclass(frozen=True, eq=False)
class Grid:
    """Everything needed to turn weights into indices: steps, and the predicted scale of every index.

    Attributes:
        steps: step of every weight.
        row_scale: log2 root mean square of each row's indices, quarter octaves.
        column_scale: the same of each column, relative to the whole tensor.
        thrift: loss, in squared steps, that one bit is worth when an index is rounded; 0 rounds to nearest.
        states: of the trellis; 1 is a scalar grid.
        exponent: of the law that indices are expected to follow (octavo.formats.trellis_codes); trellises heed it.
    """

    steps: Steps
    row_scale: NDArray[np.int16]
    column_scale: NDArray[np.int16]
    thrift: float
    states: int = 1
    exponent: float = 2.0

    @property
    def quantizers(self) -> int:
        """How many quantizers an index may belong to."""
        return 1 if self.states == 1 else 2

    @property
    def extent(self) -> int:
        """Rows of a block, or columns with a trellis, whose paths begin at the top."""
        return extent(len(self.row_scale), len(self.column_scale), self.states)

    def chunks(self) -> Iterator[tuple[slice, slice]]:
        """Rows and columns that are coded independently."""
        rows, columns = len(self.row_scale), len(self.column_scale)
        for first in range(0, rows if self.states == 1 else columns, self.extent):
            part = slice(first, first + self.extent)
            yield (part, slice(None)) if self.states == 1 else (slice(None), part)

    @property
    def _costs(self) -> torch.Tensor:
        """What an index costs, by quantizer, finest context and size."""
        # The trellis counts in fine steps, of which two make a step.
        costs = trellis_codes.trained_costs(self.states, 4 * self.thrift, self.exponent, LARGEST)
        return torch.from_numpy(costs)

    def _scaled(
        self, weights: NDArray[np.float32], rows: slice, columns: slice
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Weights in steps, and their finest contexts."""
        scaled = weights * self.steps.row_inverse[rows, None] * self.steps.column_inverse[None, columns]
        return scaled, scale_context.contexts(self.row_scale[rows], self.column_scale[columns])

    def indices(self, weights: NDArray[np.float32], rows: slice, columns: slice) -> Indices:
        """The indices of a chunk.

        Args:
            weights: those of the chunk.
            rows, columns: one of `chunks`.
        """
        scaled, context = self._scaled(weights, rows, columns)
        if self.states == 1:
            return Indices(_rounded(scaled, context, self.thrift), np.zeros_like(context), context, scaled)
        fine, contexts = torch.from_numpy(2 * scaled), torch.from_numpy(context)
        found = kernels.trellis_indices(fine, contexts, self._costs, self.states)
        quantizer = kernels.trellis_quantizers(found, self.states).numpy()
        return Indices(found.numpy(), quantizer, context, scaled)

    def positions(self, weights: NDArray[np.float32], columns: slice) -> NDArray[np.int16]:
        """The values of whole columns that `indices` finds chunk by chunk, in fine steps: half steps of a trellis.

        Called for one column after the other, where every microsecond counts: nothing is checked again.
        """
        scaled, context = self._scaled(weights, slice(None), columns)
        if self.states == 1:
            return _rounded(scaled, context, self.thrift)
        fine, contexts, costs = torch.from_numpy(2 * scaled), torch.from_numpy(context), self._costs
        backend = plain_backend(costs)
        found = backend.trellis_indices(fine, contexts, costs, self.states)
        return backend.trellis_values(found, self.states).numpy()


@dataclass(frozen=True, eq=False)
class Indices:
    """What a chunk of weights became.

    Attributes:
        index: number of each weight's value in its quantizer.
        quantizer: 0, or 1 for the values halfway between those of 0 and for zero.
        context: finest context.
        scaled: the weight in steps.
    """

    index: NDArray[np.int16]
    quantizer: NDArray[np.uint8]
    context: NDArray[np.uint8]
    scaled: NDArray[np.float32]

    @property
    def magnitude(self) -> NDArray[np.float32]:
        """Distance of the value from zero in steps, before it moves to the centroid."""
        size = np.abs(self.index).astype(np.float32)
        return np.subtract(size, 0.5 * (self.quantizer & (size > 0)), dtype=np.float32)


def _rounded(scaled: NDArray[np.float32], context: NDArray[np.uint8], thrift: float) -> NDArray[np.int16]:
    first, further = _thresholds(thrift)
    magnitude = np.abs(scaled)
    index = np.floor(magnitude + (1 - further)[context])
    index[magnitude < first[context]] = 0
    return np.copysign(np.minimum(index, LARGEST), scaled).astype(np.int16)


def extent(rows: int, columns: int, states: int) -> int:
    """Rows of a block of a scalar grid, columns of one with a trellis."""
    return max(1, CHUNK // columns) if states == 1 else max(NARROWEST, CHUNK // rows)


def scaled_grid(weights: NDArray[np.float32], steps: Steps, states: int = 1) -> Grid:
    """The grid of a matrix under given steps: measures the scale of its rows and columns.

    Args:
        weights: float32 [rows, columns].
        steps: wanted steps; those of a column are coarsened where an index would exceed `LARGEST`.
        states: see `Grid`.
    """
    over = np.ceil(4 * np.log2(np.maximum(heights(weights, steps) / (LARGEST + 0.4), 1))).astype(np.int16)
    steps = replace(steps, column=steps.column - over)
    squares = np.square(weights, dtype=np.float32)
    row_inverse, column_inverse = (np.square(v, dtype=np.float64) for v in (steps.row_inverse, steps.column_inverse))
    # OpenBLAS multiplies lanes of a register that it then drops; garbage there is no invalid value of ours.
    with np.errstate(invalid="ignore"):
        row = (squares @ column_inverse.astype(np.float32)).astype(np.float64) * row_inverse / len(column_inverse)
        column = (row_inverse.astype(np.float32) @ squares).astype(np.float64) * column_inverse / len(row_inverse)
    whole = max(float(row.mean()), 1e-60)
    row_scale = bounded(scale_context.quarter_log2(np.sqrt(row)))
    column_scale = bounded(scale_context.quarter_log2(np.sqrt(column / whole)))
    if states == 1:
        return Grid(steps, row_scale, column_scale, THRIFT)
    exponent = trellis_codes.nearest_exponent(_evenness(weights, row / row_inverse, column / column_inverse))
    return Grid(steps, row_scale, column_scale, TRELLIS_THRIFT, states, exponent)


def _evenness(weights: NDArray[np.float32], row: NDArray[np.float64], column: NDArray[np.float64]) -> float:
    """Mean magnitude over root mean square of weights in units of their scale, in a sample of the rows.

    Args:
        weights: a matrix.
        row, column: mean squares of its rows and columns, to any factor; those that are zero do not count.
    """
    picked = np.linspace(0, len(row) - 1, min(len(row), max(16, SAMPLE // len(column)))).astype(np.int64)
    picked = picked[row[picked] > 0]
    units = weights[picked][:, column > 0] / np.sqrt(row[picked, None]) / np.sqrt(column[column > 0])
    square = float(np.square(units).mean()) if units.size else 0.0
    return float(np.abs(units).mean()) / np.sqrt(square) if square > 0 else 1.0


def heights(weights: NDArray[np.float32], steps: Steps) -> NDArray[np.float32]:
    """Largest magnitude of each column, in steps."""
    found = np.zeros(weights.shape[1], dtype=np.float32)
    for first in range(0, len(weights), 256):
        rows = slice(first, first + 256)
        np.maximum(found, np.abs(weights[rows] * steps.row_inverse[rows, None]).max(0), out=found)
    return found * steps.column_inverse


def bounded(logarithms: NDArray[np.int16]) -> NDArray[np.int16]:
    """Logarithms within 127 of the largest, which is all that a table holds; an all-zero row has none of its own."""
    top = int(logarithms.max())
    return np.clip(logarithms, top - 126, top)


@cache
def _thresholds(thrift: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where an index in steps rounds up from 0 to 1, and from k to k + 1 beyond, by finest context.

    A rate-aware rounding: an index moves up when the squared error it saves is worth more than the bits it costs, under
    a Laplace distribution of the context's scale.
    """
    rate = np.sqrt(2) / scale_context.center()
    further = rate / np.log(2)
    zero = 1 - np.exp(-rate / 2)
    one = 0.5 * np.exp(-rate / 2) * (1 - np.exp(-rate))
    to_one = np.maximum(np.log2(zero / np.maximum(one, 1e-300)), 0)
    return (
        np.minimum(0.5 + thrift / 2 * to_one, 0.95).astype(np.float32),
        np.minimum(0.5 + thrift / 2 * further, 0.75).astype(np.float32),
    )
