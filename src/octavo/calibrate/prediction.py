"""The loss that a change of weights is expected to cause, from the Fisher information alone."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from octavo.formats.importance import Importance


def predicted_kl(importance: Importance, delta: Float[Tensor, "*shape"]) -> float:
    """KL divergence in nats per token from a model to itself with one weight changed by `delta`: ½ rowᵀ δ² column.

    It is the leading term of small changes that do not correlate with the gradient; large ones cost more or less.

    Args:
        importance: the weight's separable Fisher.
        delta: new weights minus old, [..., in]; leading dimensions are rows.
    """
    squared = delta.reshape(-1, delta.shape[-1]).double().square()
    row, column = importance.row.to(squared), importance.column.to(squared)
    return 0.5 * float(row @ (squared @ column))
