"""Entropy-coded trellis grids: what an index costs, and where the values lie that decode best.

The cost of an index beside its squared error is what its bits are worth, λ (thrift) squared fine steps each. At first
the bits are those of a Laplace law of the predicted scale; a second pass may take them from the indices that the first
one chose. At high rate an optimal code gains 2 ln 2 · MSE ≈ 0.35 D² from a bit; λ is best a little below, because costs
are not yet those of the tables that indices will be coded with, and above after several passes.

A context's scale is in units of the step of one quantizer, 2D, so that it is the scale of the indices, as in a grid of
that step (octavo.formats.coding.scale_context).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo.formats.coding import scale_context

THRIFT = 0.25
"""Loss in squared fine steps that one bit is worth, where indices are chosen once by the costs of the Laplace law."""

PRIOR = 16.0
"""Indices that the Laplace law counts for beside those that were counted."""


def laplace_bits(largest: int) -> NDArray[np.float64]:
    """Bits of every size of an index, its sign counted, if weights follow a Laplace law of their context's scale.

    The cells are those of rounding to the quantizer alone: in fine steps, ±1 around 2k for the first; ±1/2 around 0,
    1/2 to 2 and then one of width 2 around every 2k - 1 for the second.

    Args:
        largest: largest index.

    Returns:
        float64 [2, contexts, largest + 1].
    """
    rate = (np.sqrt(2) / (2 * scale_context.center()))[:, None]  # decay of the density over a fine step
    sizes = np.arange(1, largest + 1)
    found = np.empty((2, len(rate), largest + 1))
    for quantizer, edges in enumerate((2.0 * sizes - 1, np.where(sizes == 1, 0.5, 2.0 * sizes - 2))):
        widths = np.where((sizes == 1) & (quantizer == 1), 1.5, 2.0)
        found[quantizer, :, 0] = -np.log2(-np.expm1(-rate[:, 0] * edges[0]))
        found[quantizer, :, 1:] = 1 + rate / np.log(2) * edges - np.log2(-np.expm1(-rate * widths))
    return found


def laplace_costs(thrift: float, largest: int) -> NDArray[np.float32]:
    """Costs for `octavo.kernels.trellis_indices` where nothing but the scale of a weight is known.

    Args:
        thrift: loss, in squared fine steps, that one bit is worth.
        largest: largest index.

    Returns:
        float32 [2, contexts, largest + 1], the contexts being the finest.
    """
    return (thrift * laplace_bits(largest)).astype(np.float32)


def counted_costs(thrift: float, counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Costs from how often sizes occurred, `PRIOR` more indices following the Laplace law.

    Args:
        thrift: loss, in squared fine steps, that one bit is worth.
        counts: of each size of an index, [2, contexts, largest + 1] (`count_sizes`).

    Returns:
        float32, of the shape of the counts.
    """
    prior = laplace_bits(counts.shape[2] - 1)
    # A size above 0 stands for two indices, and the sign's bit is no choice that counts would show.
    prior[:, :, 1:] -= 1
    chances = np.exp2(-np.minimum(prior, 1000))
    joint = (counts + PRIOR * chances) / (counts.sum(2, keepdims=True) + PRIOR * chances.sum(2, keepdims=True))
    bits = -np.log2(np.maximum(joint, 1e-300))
    bits[:, :, 1:] += 1
    return (thrift * bits).astype(np.float32)


def count_sizes(
    indices: NDArray[np.int16], quantizers: NDArray[np.uint8], context: NDArray[np.uint8], largest: int
) -> NDArray[np.int64]:
    """How often each size of an index occurs, by quantizer and finest context: [2, contexts, largest + 1]."""
    sizes, contexts = largest + 1, scale_context.FINEST
    place = (quantizers.astype(np.int64) * contexts + context) * sizes + np.abs(indices)
    return np.bincount(place.ravel(), minlength=2 * contexts * sizes).reshape(2, contexts, sizes)


def coded_bits(counts: NDArray[np.int64]) -> float:
    """Bits of an ideal code of counted indices with a table for each quantizer and context, signs one bit each."""
    totals = counts.sum(2, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    entropy = -(counts * np.log2(np.where(counts > 0, shares, 1))).sum()
    return float(entropy + counts[:, :, 1:].sum())


def shortfalls(
    scaled: NDArray[np.float32],
    indices: NDArray[np.int16],
    quantizers: NDArray[np.uint8],
    points: int,
) -> NDArray[np.float64]:
    """How far the centroids of the sizes 1 … points lie below the values that the indices stand for, in fine steps.

    Args:
        scaled: weights in fine steps, any shape.
        indices: of that shape.
        quantizers: of that shape.
        points: how many sizes have points of their own.

    Returns:
        float64 [2, points], 0 where a size does not occur.
    """
    size = np.abs(indices.astype(np.int32))
    gap = 2 * size - quantizers * (size > 0) - scaled * np.sign(indices)
    place = (quantizers * (points + 2) + np.minimum(size, points + 1)).ravel()
    number = np.bincount(place, minlength=2 * (points + 2))
    total = np.bincount(place, weights=gap.ravel(), minlength=2 * (points + 2))
    return (total / np.maximum(number, 1)).reshape(2, points + 2)[:, 1 : points + 1]
