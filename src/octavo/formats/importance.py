"""How much each weight matters: a separable diagonal Fisher, squared output gradients times squared inputs."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from octavo.base.errors import FormatError


@dataclass(frozen=True, eq=False)
class Importance:
    """Separable Fisher of a weight matrix: F_ij = row_i · column_j, in nats per token per squared weight.

    Attributes:
        row: mean squared gradient of the loss at each output, weighted by the size of the inputs, float32.
        column: mean square of each input, weighted by the size of the gradient, float32.
    """

    row: Float[Tensor, " out"]
    column: Float[Tensor, " in"]

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
        return Importance(row, column)

    def matrix(self) -> Float[Tensor, "out in"]:
        """The full F, materialized: for tests and small tensors."""
        return self.row[:, None] * self.column[None, :]
