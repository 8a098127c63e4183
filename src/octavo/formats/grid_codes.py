"""Uniform grids with separable steps, and what they cost: the arithmetic behind the entropy-coded formats.

With an entropy coder behind it, the best scalar quantizer at moderate rate is a uniform grid, and the best step of
weight (i, j) is inversely proportional to the square root of its sensitivity F_ij = r_i c_j (reverse water-filling):
every weight then costs the same expected loss, and unimportant weights cost almost no bits. One number, the common
step, meets a budget. Steps are step · 2^(-(row_i + column_j)/4), row_i and column_j whole quarter octaves.

Sources: arXiv 2603.04956 (unequal steps), 2505.12988 section 4 (entropy-coded uniform grids).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from octavo.formats.coding import ans, scale_context

CHUNK = 1 << 17
"""Weights to a block: small enough for the cache, large enough that a block's 64 spare bits do not matter."""

THRIFT = 0.06
"""Loss in squared steps that one bit is worth when an index is rounded (see `Grid.thrift`)."""

LARGEST = 511
"""Largest index; a column that asks for finer steps does not get them."""

NARROW = 127
"""Largest index that takes one byte in memory."""

POINTS = 4
"""Indices ±1 … ±POINTS have reconstruction points of their own."""


@dataclass(frozen=True, eq=False)
class Steps:
    """The step of every weight: step · 2^(-(row_i + column_j)/4)."""

    step: float
    row: NDArray[np.int16]
    column: NDArray[np.int16]

    @property
    def row_inverse(self) -> NDArray[np.float32]:
        return scale_context.power(self.row)

    @property
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
    """

    steps: Steps
    row_scale: NDArray[np.int16]
    column_scale: NDArray[np.int16]
    thrift: float

    def chunks(self) -> Iterator[slice]:
        """Row ranges that are coded independently."""
        rows, columns = len(self.row_scale), len(self.column_scale)
        size = height(columns)
        for first in range(0, rows, size):
            yield slice(first, min(first + size, rows))

    def indices(
        self, weights: NDArray[np.float32], rows: slice
    ) -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.float32]]:
        """Index and finest context of each weight of some rows, and the weight in steps."""
        scaled = weights * self.steps.row_inverse[rows, None] * self.steps.column_inverse[None, :]
        context = scale_context.contexts(self.row_scale[rows], self.column_scale)
        first, further = _thresholds(self.thrift)
        magnitude = np.abs(scaled)
        index = np.floor(magnitude + (1 - further)[context])
        index[magnitude < first[context]] = 0
        index = np.copysign(np.minimum(index, LARGEST), scaled).astype(np.int32)
        return index, context, scaled


def height(columns: int) -> int:
    """Rows of a block."""
    return max(1, CHUNK // columns)


def scaled_grid(weights: NDArray[np.float32], steps: Steps, thrift: float = THRIFT) -> Grid:
    """The grid of a matrix under given steps: measures the scale of its rows and columns.

    Args:
        weights: float32 [rows, columns].
        steps: wanted steps; those of a column are coarsened where an index would exceed `LARGEST`.
        thrift: see `Grid`.
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
    return Grid(steps, row_scale, column_scale, thrift)


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


@dataclass(frozen=True, eq=False)
class Census:
    """How often each folded index occurs in each finest context, and where the centroids lie.

    Attributes:
        counts: of each |index| in each context, [contexts, LARGEST + 1].
        shortfall: mean of |index| - |weight in steps| for |index| = 1 … POINTS.
        error: sum of squared errors in steps, after reconstruction at the centroids.
        wide: how many rows, and how many columns, have an index beyond `NARROW`.
    """

    counts: NDArray[np.int64]
    shortfall: NDArray[np.float64]
    error: float
    wide: tuple[int, int]

    def best_tables(self) -> tuple[int, list[ans.Table | None], float]:
        """Context width, tables and bits (tables included) that code the census shortest."""
        return min((self._tables(width) for width in scale_context.WIDTHS), key=lambda choice: choice[2])

    def _tables(self, width: int) -> tuple[int, list[ans.Table | None], float]:
        merged = self.counts.reshape(-1, width, self.counts.shape[1]).sum(1)
        tables: list[ans.Table | None] = []
        bits = 8.0 * -(-len(merged) // 8)
        for counts in merged:
            if not counts.any():
                tables.append(None)
                continue
            table = ans.fit_table(counts)
            tables.append(table)
            bits += 16 + 8 * len(table.entries) + table.cost(counts[: len(table.entries)])
        return width, tables, bits


def take_census(weights: NDArray[np.float32], grid: Grid) -> Census:
    """Count the indices of a matrix.

    Args:
        weights: float32 [rows, columns].
        grid: its grid.
    """
    size = LARGEST + 1
    counts = np.zeros(scale_context.FINEST * size, dtype=np.int64)
    number = np.zeros(POINTS + 1, dtype=np.int64)
    short, square = np.zeros(POINTS + 1), 0.0
    wide_rows, wide_columns = 0, np.zeros(weights.shape[1], dtype=bool)
    for rows in grid.chunks():
        index, context, scaled = grid.indices(weights[rows], rows)
        magnitude = np.abs(index)
        counts += np.bincount((context.astype(np.int32) * size + magnitude).ravel(), minlength=len(counts))
        beyond = magnitude > NARROW
        wide_rows += int(beyond.any(1).sum())
        wide_columns |= beyond.any(0)
        gap = magnitude - np.abs(scaled)
        square += float(np.square(gap, dtype=np.float64).sum())
        near = np.minimum(magnitude, POINTS + 1).ravel()
        number += np.bincount(near, minlength=POINTS + 2)[: POINTS + 1]
        short += np.bincount(near, weights=gap.ravel(), minlength=POINTS + 2)[: POINTS + 1]
    mean = short / np.maximum(number, 1)
    mean[0] = 0  # an index of 0 has no sign to move towards
    error = square - float((number * mean**2).sum())
    wide = wide_rows, int(wide_columns.sum())
    return Census(counts.reshape(scale_context.FINEST, size), mean[1:], error, wide)
