"""Entropy-coded trellis grids: what an index costs.

The cost of an index beside its squared error is what its bits are worth, λ (thrift) squared fine steps each. At high
rate an optimal code gains 2 ln 2 · MSE ≈ 0.35 D² from a bit.

What bits an index takes depends on how often paths use it, and paths depend on the costs. So the costs are trained:
from the masses of cells under a law, paths for many draws of the law are found, their indices counted, the costs taken
from the counts, and so on. At low rates that leads far away from the first costs: at one bit the second quantizer
hardly uses its zero, and the first one little else. Nothing of this is stored, since decoding needs no costs.

The law is a generalized normal one, density ~ exp(-|x/a|^p), whose exponent p fits the tensor's weights in units of
their contexts' scales: 2 is normal, 1 Laplace's. A context's scale is in units of the step of one quantizer, 2D, so
that it is the scale of the indices, as in a grid of that step (octavo.formats.coding.scale_context).

Sources: Chou, Lookabaugh and Gray, IEEE Trans. Acoustics, Speech and Signal Processing 37, 1989 (alternating between
codes and costs); Fischer and Wang, IEEE Trans. Information Theory 38, 1992 (for trellises).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from octavo import kernels
from octavo.formats.coding import ans, scale_context

EXPONENTS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
"""Exponents that costs are trained for."""

DEAREST = 1 - np.log2(ans.RAREST)
"""Bits that the entropy coder spends on an index at most, its sign counted."""

TRAINED = 20
"""Contexts with trained costs, of scales up to 3.4 steps; above, a cell's mass says it well enough."""

ROUNDS = 4
"""How often paths and costs take turns."""

DRAWS = (512, 8)
"""Rows and columns of draws for each context."""

PRIOR = 16.0
"""Indices that the law counts for beside those that were counted."""


def mean_absolute(exponent: float) -> float:
    """Mean magnitude under the generalized normal law of root mean square 1."""
    first, second, third = (special.gamma(k / exponent) for k in (1, 2, 3))
    return float(second / np.sqrt(first * third))


def nearest_exponent(ratio: float) -> float:
    """The exponent at which the mean magnitude over the root mean square is about `ratio`."""
    return min(EXPONENTS, key=lambda exponent: abs(mean_absolute(exponent) - ratio))


def law_bits(exponent: float, largest: int) -> NDArray[np.float64]:
    """Bits of every size of an index, its sign counted, by the mass of its cell; at most `DEAREST`.

    The cells are those of rounding to the quantizer alone: in fine steps, ±1 around 2k for the first; ±1/2 around 0,
    1/2 to 2 and then one of width 2 around every 2k - 1 for the second.

    Args:
        exponent: of the law.
        largest: largest index.

    Returns:
        float64 [2, contexts, largest + 1].
    """
    scale = 2 * scale_context.center() * _unit(exponent)
    sizes = np.arange(largest + 1)
    edges = np.stack([2.0 * sizes + 1, np.where(sizes == 0, 0.5, 2.0 * sizes)])
    beyond = special.gammaincc(1 / exponent, (edges[:, None] / scale[:, None]) ** exponent)
    masses = np.concatenate([1 - beyond[:, :, :1], (beyond[:, :, :-1] - beyond[:, :, 1:]) / 2], 2)
    return -np.log2(np.maximum(masses, 2.0**-DEAREST))


def counted_bits(counts: NDArray[np.int64], law: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bits of every size by how often it occurred, `PRIOR` more indices of each table following the law.

    Args:
        counts: int64 [2, contexts, largest + 1], both signs together.
        law: from `law_bits`.
    """
    signs = np.arange(law.shape[2]) > 0
    expected = PRIOR * np.exp2(signs - law)
    shares = (counts + expected) / (counts + expected).sum(2, keepdims=True)
    return signs - np.log2(shares)


@cache
def trained_costs(states: int, thrift: float, exponent: float, largest: int) -> NDArray[np.float32]:
    """Costs for `octavo.kernels.trellis_indices`.

    Args:
        states: of the trellis.
        thrift: loss, in squared fine steps, that one bit is worth.
        exponent: of the law that weights follow.
        largest: largest index.

    Returns:
        float32 [2, contexts, largest + 1], the contexts being the finest.
    """
    law = law_bits(exponent, largest)
    context = np.repeat(np.arange(TRAINED, dtype=np.uint8), DRAWS[1])
    scaled = np.tile(_draws(exponent), TRAINED) * (2 * scale_context.center()[context])
    weights = torch.from_numpy(scaled.astype(np.float32))
    contexts = torch.from_numpy(np.tile(context, (DRAWS[0], 1)))
    bits = law.copy()
    for _ in range(ROUNDS):
        costs = torch.from_numpy((thrift * bits).astype(np.float32))
        indices = kernels.trellis_indices(weights, contexts, costs, states)
        quantizers = kernels.trellis_quantizers(indices, states).numpy()
        table = quantizers.astype(np.int64) * scale_context.FINEST + context
        found = np.bincount((table * (largest + 1) + np.abs(indices.numpy())).ravel(), minlength=law.size)
        bits[:, :TRAINED] = counted_bits(found.reshape(law.shape), law)[:, :TRAINED]
    return (thrift * bits).astype(np.float32)


def _unit(exponent: float) -> float:
    """The law's a where its root mean square is 1."""
    return float(np.sqrt(special.gamma(1 / exponent) / special.gamma(3 / exponent)))


def _draws(exponent: float) -> NDArray[np.float64]:
    """Draws of the law of root mean square 1, always the same."""
    random = np.random.default_rng(0)
    sizes = random.standard_gamma(1 / exponent, DRAWS) ** (1 / exponent)
    return _unit(exponent) * sizes * random.choice([-1.0, 1.0], DRAWS)
