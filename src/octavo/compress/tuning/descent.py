"""Gradient descent by the clock: Adam, whose rate rises over the first steps and falls to zero as the time runs out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from octavo.compress.tuning.clock import Clock
from octavo.compress.tuning.weight import TunedWeight

WARMUP = 5
"""Steps over which the rate rises."""

MOMENTA = 0.9, 0.95
"""Of the gradient and of its square: runs are too short for the square's usual 0.999."""


class Descent:
    """Some weights on their way.

    Args:
        weights: what learns.
        rate: highest rate.
        clock: the time.
        end: seconds on the clock at which the rate is zero.

    Attributes:
        steps: how many were taken.
    """

    def __init__(self, weights: Sequence[TunedWeight], rate: float, clock: Clock, end: float) -> None:
        self._parameters = [parameter for weight in weights for parameter in weight.parameters()]
        self._optimizer = torch.optim.Adam(self._parameters, betas=MOMENTA)
        self._rate, self._clock, self._end = rate, clock, end
        self._begin = clock.passed
        self._lost = False
        self.steps = 0

    @property
    def goes_on(self) -> bool:
        """Whether there is time and the way is not lost; the first step is always taken."""
        return not self._lost and (not self.steps or self._clock.passed < self._end)

    def step(self, loss: Float[Tensor, ""]) -> None:
        """One step down the gradient of a loss; one that is not finite ends the descent."""
        if not bool(loss.isfinite()):
            self._lost = True
            return
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        done = (self._clock.passed - self._begin) / max(self._end - self._begin, 1e-9)
        falling = (1 + math.cos(math.pi * min(done, 1))) / 2
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * min(1, (self.steps + 1) / WARMUP) * falling
        self._optimizer.step()
        self.steps += 1
