"""Unequal widths of groups: bits are moved from groups that lose little by it to groups that gain much.

The paper weighs groups by a Kullback-Leibler divergence of a layer's outputs; here it is each group's own loss,
measured at one bit less, at the mean, and at one bit more, which adds up over groups.

Source: "Learning Grouped Lattice Vector Quantizers for Low-Bit LLM Compression" (arXiv 2510.20984), salience-determined
bit allocation; the greedy exchange is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from numpy import ndarray


def exchanged(losses: Float[ndarray, "groups 3"], sizes: Sequence[int]) -> list[int]:
    """Widths over the mean, -1, 0 or 1, of least total loss that exchanges between groups of equal size reach.

    An exchange takes a bit from one group and gives it to another, so that the mean over weights is kept exactly.

    Args:
        losses: of each group at one bit less, at the mean, and at one bit more.
        sizes: weights of each group.
    """
    widths = [0] * len(sizes)

    def change(group: int, by: int) -> float:
        return float(losses[group, widths[group] + by + 1] - losses[group, widths[group] + 1])

    while True:
        pairs = [
            (change(giver, -1) + change(taker, 1), giver, taker)
            for giver in range(len(sizes))
            for taker in range(len(sizes))
            if giver != taker and sizes[giver] == sizes[taker] and widths[giver] > -1 and widths[taker] < 1
        ]
        gain, giver, taker = min(pairs, default=(0.0, 0, 0))
        if gain >= 0:
            return widths
        widths[giver] -= 1
        widths[taker] += 1
