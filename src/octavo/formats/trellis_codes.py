"""Entropy-coded trellis grids: what an index costs.

The cost of an index beside its squared error is what its bits are worth, λ (thrift) squared fine steps each. The bits
are those of a Laplace law of the predicted scale. At high rate an optimal code gains 2 ln 2 · MSE ≈ 0.35 D² from a bit;
λ is best a little below, because costs are not yet those of the tables that indices will be coded with.

A context's scale is in units of the step of one quantizer, 2D, so that it is the scale of the indices, as in a grid of
that step (octavo.formats.coding.scale_context).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo.formats.coding import scale_context


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
