"""Uniform grids with separable steps, and what they cost: the arithmetic behind the entropy-coded formats.

With an entropy coder behind it, the best scalar quantizer at moderate rate is a uniform grid, and the best step of
weight (i, j) is inversely proportional to the square root of its sensitivity F_ij = r_i c_j (reverse water-filling):
every weight then costs the same expected loss, and unimportant weights cost almost no bits. One number, the common
step, meets a budget. Steps are step · 2^(-(row_i + column_j)/4), row_i and column_j whole quarter octaves.

A grid is scalar, or its indices are a path through a trellis of two quantizers down each column of a chunk
(octavo.kernels.trellis), of which this step is that of one: the same bits and up to 1.3 dB less error.

Sources: arXiv 2603.04956 (unequal steps), 2505.12988 section 4 (entropy-coded uniform grids).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from octavo import kernels
from octavo.formats import trellis_codes
from octavo.formats.coding import scale_context
from octavo.kernels.backends import plain_backend

CHUNK = 1 << 17
"""Weights to a block: small enough for the cache, large enough that a block's 64 spare bits do not matter."""

THRIFT = 0.06
"""Loss in squared steps that one bit is worth when an index is rounded (see `Grid.thrift`)."""

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
    """

    steps: Steps
    row_scale: NDArray[np.int16]
    column_scale: NDArray[np.int16]
    thrift: float
    states: int = 1

    @property
    def quantizers(self) -> int:
        """How many quantizers an index may belong to."""
        return 1 if self.states == 1 else 2

    def chunks(self) -> Iterator[slice]:
        """Row ranges that are coded independently."""
        rows, columns = len(self.row_scale), len(self.column_scale)
        size = height(columns)
        for first in range(0, rows, size):
            yield slice(first, min(first + size, rows))

    def _scaled(
        self, weights: NDArray[np.float32], rows: slice, columns: slice
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Weights in steps, and their finest contexts."""
        scaled = weights * self.steps.row_inverse[rows, None] * self.steps.column_inverse[None, columns]
        return scaled, scale_context.contexts(self.row_scale[rows], self.column_scale[columns])

    def indices(self, weights: NDArray[np.float32], rows: slice) -> Indices:
        """The indices of a chunk.

        Args:
            weights: of these rows.
            rows: one of `chunks`.
        """
        scaled, context = self._scaled(weights, rows, slice(None))
        if self.states == 1:
            return Indices(_rounded(scaled, context, self.thrift), np.zeros_like(context), context, scaled)
        costs = torch.from_numpy(_trellis_costs(self.thrift))
        found = kernels.trellis_indices(torch.from_numpy(2 * scaled), torch.from_numpy(context), costs, self.states)
        quantizer = kernels.trellis_quantizers(found, self.states).numpy()
        return Indices(found.numpy(), quantizer, context, scaled)

    def positions(self, weights: NDArray[np.float32], columns: slice) -> NDArray[np.int16]:
        """The values of whole columns that `indices` finds chunk by chunk, in fine steps: half steps of a trellis.

        Called for one column after the other, where every microsecond counts: all chunks go through the trellis side
        by side, and nothing is checked again.
        """
        rows, chunk = len(self.row_scale), height(len(self.column_scale))
        scaled, context = self._scaled(weights, slice(None), columns)
        if self.states == 1:
            return _rounded(scaled, context, self.thrift)
        spare = -rows % chunk
        # What fills up the last chunk costs nothing whichever way it is coded.
        scaled = np.pad(2 * scaled, ((0, spare), (0, 0)))
        context = np.pad(context, ((0, spare), (0, 0)), constant_values=scale_context.FINEST)
        scaled, context = (torch.from_numpy(_fold(part, chunk)) for part in (scaled, context))
        costs = torch.from_numpy(_trellis_costs(self.thrift))
        backend = plain_backend(costs)
        found = backend.trellis_values(
            backend.trellis_indices(scaled, context, costs, self.states), self.states
        ).numpy()
        return found.reshape(chunk, -1, weights.shape[1]).swapaxes(0, 1).reshape(-1, weights.shape[1])[:rows]


def _fold(column: NDArray[Any], height: int) -> NDArray[Any]:
    """Chunks of rows side by side."""
    chunks = column.reshape(-1, height, column.shape[1])
    return np.ascontiguousarray(chunks.swapaxes(0, 1)).reshape(height, -1)


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


@cache
def _trellis_costs(thrift: float) -> NDArray[np.float32]:
    """By quantizer, finest context and size; in one more context everything is free."""
    # The trellis counts in fine steps, of which two make a step.
    return np.pad(trellis_codes.laplace_costs(4 * thrift, LARGEST), ((0, 0), (0, 1), (0, 0)))


def height(columns: int) -> int:
    """Rows of a block."""
    return max(1, CHUNK // columns)


def scaled_grid(weights: NDArray[np.float32], steps: Steps, states: int = 1, thrift: float = THRIFT) -> Grid:
    """The grid of a matrix under given steps: measures the scale of its rows and columns.

    Args:
        weights: float32 [rows, columns].
        steps: wanted steps; those of a column are coarsened where an index would exceed `LARGEST`.
        states, thrift: see `Grid`.
    """
    over = np.ceil(4 * np.log2(np.maximum(heights(weights, steps) / (LARGEST + 0.4), 1))).astype(np.int16)
    steps = replace(steps, column=steps.column - over)
    squares = np.square(weights, dtype=np.float32)
    row_inverse, column_inverse = (np.square(v, dtype=np.float64) for v in (steps.row_inverse, steps.column_inverse))
    row = (squares @ column_inverse.astype(np.float32)).astype(np.float64) * row_inverse / len(column_inverse)
    column = (row_inverse.astype(np.float32) @ squares).astype(np.float64) * column_inverse / len(row_inverse)
    whole = max(float(row.mean()), 1e-60)
    row_scale = bounded(scale_context.quarter_log2(np.sqrt(row)))
    column_scale = bounded(scale_context.quarter_log2(np.sqrt(column / whole)))
    return Grid(steps, row_scale, column_scale, thrift, states)


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
