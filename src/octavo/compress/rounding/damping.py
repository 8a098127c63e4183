"""How much the second moments of inputs must be damped before errors are fed back by them.

A text of T tokens shows what n inputs have in common only so well; feedback that believes it all does worse on other
texts than none. Half of the text checks what the other half shows. With U from the first half, H⁻¹ = UᵀU, the rounding
errors that all columns share alike (steps in inverse proportion to the root of the conditional importance 1 / U_jj²)
cost on the second half, up to a factor,

    mean_j (U H₂ Uᵀ)_jj · Π_j (1 / U_jj²)^(1/n),

which is 1 · det(H)^(1/n) if both halves agree. The damping with the least cost is taken, halved because the whole text
has twice as many tokens as one half: on the embedded model a third of the damping was best for three times the text.
"""

from __future__ import annotations

from math import inf

import torch
from jaxtyping import Float
from torch import Tensor

from octavo.calibrate.hessian import Moments
from octavo.compress.rounding.error_feedback import DAMPING, inverse_factor

CANDIDATES = (0.01, 0.04, 0.16, 0.64, 2.56)
"""Of the mean diagonal; the cost has one minimum and is flat there."""

FEWER = 0.5
"""What is left of the damping when the text is twice as long."""


def damping_for(moments: Moments) -> float:
    """The fraction of the mean diagonal to add to H; a typical one where there is no second half to check with."""
    first, second = moments.half(0), moments.half(1)
    if min(moments.strengths) <= 0 or not bool(first.diagonal().mean() > 0):
        return DAMPING
    costs: dict[int, float] = {}

    def cost(place: int) -> float:
        if not 0 <= place < len(CANDIDATES):
            return inf
        if place not in costs:
            costs[place] = log_cost(first, second, CANDIDATES[place])
        return costs[place]

    best = len(CANDIDATES) // 2
    while cost(better := min(best - 1, best + 1, key=cost)) < cost(best):
        best = better
    return FEWER * CANDIDATES[best] if cost(best) < inf else DAMPING


def log_cost(first: Float[Tensor, "in in"], second: Float[Tensor, "in in"], damping: float) -> float:
    """Logarithm of what rounding costs on the second half when errors are fed back by the first; infinite if they
    cannot be.

    Args:
        first: H of one half.
        second: H of the other.
        damping: fraction of the first's mean diagonal that is added to it.
    """
    damped = first + damping * first.diagonal().mean() * torch.eye(len(first), device=first.device)
    upper = inverse_factor(damped)
    if upper is None:
        return inf
    spread = ((upper @ second) * upper).sum(1).mean().log() - 2 * upper.diagonal().log().mean()
    return float(spread) if bool(spread.isfinite()) else inf
