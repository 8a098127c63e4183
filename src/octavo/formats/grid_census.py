"""What the indices of a grid cost: how often each occurs, the tables that code them, and where their centroids lie."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octavo.formats.coding import ans, scale_context
from octavo.formats.grid_codes import LARGEST, Grid, Indices

POINTS = 4
"""Indices ±1 … ±POINTS have reconstruction points of their own."""


@dataclass(frozen=True, eq=False)
class Census:
    """How often each folded index occurs in each finest context, and where the centroids lie.

    Attributes:
        counts: of each |index| in each context of each quantizer, [quantizers, contexts, LARGEST + 1].
        shortfall: mean of the value less the weight, in steps and in the direction of the weight, for |index| = 1 …
            POINTS of each quantizer.
        error: sum of squared errors in steps, after reconstruction at the centroids.
    """

    counts: NDArray[np.int64]
    shortfall: NDArray[np.float64]
    error: float

    def best_tables(self) -> tuple[int, list[ans.Table | None], float]:
        """Context width, tables and bits (tables included) that code the census shortest."""
        return min((self._tables(width) for width in scale_context.WIDTHS), key=lambda choice: choice[2])

    def _tables(self, width: int) -> tuple[int, list[ans.Table | None], float]:
        merged = self.counts.reshape(-1, width, self.counts.shape[2]).sum(1)
        tables: list[ans.Table | None] = []
        bits = 0.0
        for counts in merged:
            if not counts.any():
                tables.append(None)
                continue
            table = ans.fit_table(counts)
            tables.append(table)
            bits += table.cost(counts[: len(table.entries)])
        return width, tables, bits + 8 * len(ans.pack_tables(tables))


def take_census(weights: NDArray[np.float32], grid: Grid) -> Census:
    """Count the indices of a matrix.

    Args:
        weights: float32 [rows, columns].
        grid: its grid.
    """
    return census_of((grid.indices(weights[chunk], *chunk) for chunk in grid.chunks()), grid)


def census_of(chunks: Iterable[Indices], grid: Grid) -> Census:
    """Count the indices of all chunks of a matrix, in their order."""
    size, kinds = LARGEST + 1, POINTS + 2
    counts = np.zeros(grid.quantizers * scale_context.FINEST * size, dtype=np.int64)
    number, short = (np.zeros(grid.quantizers * kinds) for _ in range(2))
    square = 0.0
    for found in chunks:
        folded = np.abs(found.index)
        table = found.quantizer.astype(np.int32) * scale_context.FINEST + found.context
        counts += np.bincount((table * size + folded).ravel(), minlength=len(counts))
        gap = found.magnitude - np.abs(found.scaled)
        square += float(np.square(gap, dtype=np.float64).sum())
        kind = (found.quantizer.astype(np.int32) * kinds + np.minimum(folded, POINTS + 1)).ravel()
        number += np.bincount(kind, minlength=len(number))
        short += np.bincount(kind, weights=gap.ravel(), minlength=len(number))
    # An index of 0 has no sign to move towards, and large ones have no points of their own.
    mean = (short / np.maximum(number, 1)).reshape(grid.quantizers, kinds)[:, 1 : POINTS + 1]
    error = square - float((number.reshape(grid.quantizers, kinds)[:, 1 : POINTS + 1] * mean**2).sum())
    return Census(counts.reshape(grid.quantizers, scale_context.FINEST, size), mean, error)


def points(shortfall: NDArray[np.float64], states: int) -> NDArray[np.float32]:
    """Values of the positions around zero, in fine steps: those of a scalar grid are its steps, two make a trellis's.

    Args:
        shortfall: in steps, of each quantizer and size (see `Census`).
        states: of the trellis.

    Returns:
        Of the positions -POINTS … POINTS of a scalar grid, of -2·POINTS … 2·POINTS with a trellis.
    """
    if states == 1:
        above = np.arange(1, POINTS + 1) - shortfall[0]
    else:
        above = np.empty(2 * POINTS)
        above[1::2] = 2 * (np.arange(1, POINTS + 1) - shortfall[0])
        above[0::2] = 2 * (np.arange(1, POINTS + 1) - 0.5 - shortfall[1])
    return np.concatenate([-above[::-1], [0], above]).astype(np.float32)
