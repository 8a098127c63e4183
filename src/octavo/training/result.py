"""What a run leaves behind, beside the trained model."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float32
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """How a run went.

    Attributes:
        losses: of every step, before it was made, in the objective's unit.
        held_out: steps that were done, and the mean loss on held-out data then.
        tokens: that were trained on.
        seconds: that training took, over all times the run was gone on with.
        step: steps that are done; fewer than asked where a signal stopped the run.
        finished: whether that is all.
    """

    losses: Float32[Tensor, " done"]
    held_out: tuple[tuple[int, float], ...]
    tokens: int
    seconds: float
    step: int
    finished: bool
