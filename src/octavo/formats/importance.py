"""How much each weight matters: a separable diagonal Fisher, squared output gradients times squared inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from octavo.base.errors import FormatError


@dataclass(frozen=True, eq=False)
class Importance:
    """Separable Fisher of a weight matrix: F_ij = row_i · column_j, in nats per token per squared weight.

    Attributes:
        row: mean squared gradient of the loss at each output, weighted by the size of the inputs, float32.
        column: mean square of each input, weighted by the size of the gradient, float32. Where errors are fed back, of
            each column what later columns cannot make up for.
        upper: where errors are fed back, also what they have in common: with U of H⁻¹ = UᵀU, H the inputs' second
            moments, errors e of consecutive columns B cost ‖e U_BB⁻¹‖². Formats that round several columns at once
            look at it.
    """

    row: Float[Tensor, " out"]
    column: Float[Tensor, " in"]
    upper: Float[Tensor, "in in"] | None = None

    @property
    def mean(self) -> float:
        """Mean of F over the whole matrix."""
        return float(self.row.double().mean() * self.column.double().mean())

    def checked(self, rows: int, columns: int) -> Importance:
        """The same, if it can be that of a matrix of `rows` x `columns`.

        Raises:
            FormatError: it has another shape, or is negative or not finite.
        """
        sides = (self.row.numel(), self.column.numel())
        if sides != (rows, columns):
            raise FormatError(
                f"the importance is of {sides}, the weights are {(rows, columns)}", "calibrate this model"
            )
        for factor in (self.row, self.column):
            if not bool((factor.isfinite() & (factor >= 0)).all()):
                raise FormatError("the importance is negative or not finite", "calibrate again")
        return self

    def damped(self, fraction: float = 1e-3) -> Importance:
        """Both factors lifted by `fraction` of their mean, so that no weight is free."""
        row, column = (f + fraction * f.mean().clamp_min(1e-30) for f in (self.row, self.column))
        return Importance(row, column, self.upper)

    def normalized(self, device: torch.device) -> Importance:
        """Damped, so that no weight is free, float32, both factors of mean one."""
        damped = self.damped()
        row, column = ((f.double() / f.double().mean()).float().to(device) for f in (damped.row, damped.column))
        return Importance(row, column, None if self.upper is None else self.upper.float().to(device))

    def matrix(self) -> Float[Tensor, "out in"]:
        """The full F, materialized: for tests and small tensors."""
        return self.row[:, None] * self.column[None, :]
