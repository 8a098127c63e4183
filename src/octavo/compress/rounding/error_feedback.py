"""Error feedback: columns are rounded one after the other, and those to come make up for the errors of those before.

With H the second moments of a matrix's inputs, a change of a row by d costs d H dᵀ. Let H⁻¹ = UᵀU, U upper triangular.
After column j is rounded with the error e, the columns k > j are best changed by -e U_jk / U_jj, and what the error of
column j then costs is (e / U_jj)²: each column has a *conditional importance* 1 / U_jj², never more than its own H_jj,
with which steps and widths are to be chosen. The determinant is that of H: nothing else is gained than what the inputs
have in common.

Sources: Frantar et al., GPTQ (arXiv 2210.17323); Chee et al., QuIP (arXiv 2307.13304: that it is feedback by LDL, and
optimal); arXiv 2603.04956 (unequal steps).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from octavo.base.errors import ModelError
from octavo.formats.rounding import Rounder

DAMPING = 0.1
"""Of the mean diagonal of H, added to it: inputs that never occur in the text will occur in use. Typical for 8,192
tokens; `compress.rounding.damping` finds out what a text bears."""

BLOCK = 64
"""Columns after which errors are carried to all that are left."""


@dataclass(frozen=True, eq=False)
class Elimination:
    """What the rounding of one column means for those after it.

    Attributes:
        order: the columns in the order in which they are rounded.
        upper: U, the upper triangular factor of the inverse of the damped H, both in that order.
        moments: the damped H, in the order of the columns.
    """

    order: Int64[Tensor, " in"]
    upper: Float32[Tensor, "in in"]
    moments: Float32[Tensor, "in in"]

    @property
    def conditional(self) -> Float32[Tensor, " in"]:
        """What a squared error of each column costs when all that are rounded later make up for it."""
        found = torch.empty_like(self.upper.diagonal())
        found[self.order] = 1 / self.upper.diagonal().square()
        return found


def eliminate(
    moments: Float[Tensor, "in in"], damping: float = DAMPING, order: Int64[Tensor, " in"] | None = None
) -> Elimination:
    """What rounding the columns in some order means.

    Inputs that are always zero count as `damping` of a typical one; where that does not make H definite, damping grows.

    Args:
        moments: H, symmetric.
        damping: fraction of the mean diagonal that is added.
        order: the columns in the order in which they are rounded; by default from left to right.

    Raises:
        ModelError: H is not finite.
    """
    wide = moments.double()
    if not bool(wide.isfinite().all()):
        raise ModelError("the inputs of a layer are not finite on the calibration text", "load the model in float32")
    wide = (wide + wide.T) / 2
    order = torch.arange(len(wide)) if order is None else order
    level = wide.diagonal().mean().clamp_min(0)
    level = level if float(level) > 0 else torch.ones_like(level)
    identity = torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    while True:
        damped = wide + damping * level * identity
        upper = inverse_factor(damped[order][:, order])
        if upper is not None:
            return Elimination(order, upper.float(), damped.float())
        damping = max(4 * damping, 1e-6)


def inverse_factor(moments: Float[Tensor, "in in"]) -> Float[Tensor, "in in"] | None:
    """U, upper triangular, with H⁻¹ = UᵀU; None where H is not definite in its own precision."""
    lower, failed = torch.linalg.cholesky_ex(moments)
    if int(failed):
        return None
    upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    return None if int(failed) or not bool(upper.isfinite().all()) else upper


def by_energy(moments: Float[Tensor, "in in"], run: int = 1) -> Int64[Tensor, " in"]:
    """The order that starts with the strongest inputs, whose errors all others can then make up for ("act-order").

    Args:
        moments: H.
        run: columns that are rounded together and stay together.
    """
    energy = moments.diagonal()
    whole = len(energy) // run * run
    runs = energy[:whole].view(-1, run).sum(1).argsort(descending=True, stable=True)
    places = torch.arange(len(energy), device=energy.device)
    return torch.cat([places[:whole].view(-1, run)[runs].flatten(), places[whole:]])


def feed_back(
    weights: Float[Tensor, "out in"], rounder: Rounder, elimination: Elimination, block: int = BLOCK
) -> Float32[Tensor, "out in"]:
    """The matrix whose rounding, column by column, costs little: what `rounder` is to quantize in place of `weights`.

    Never costs more than rounding the weights themselves: where it would, these are returned.

    Args:
        weights: the matrix.
        rounder: its format, settled.
        elimination: of its inputs; columns that the rounder takes together must follow each other in its order.
        block: columns after which errors are carried to all that are left; changes nothing but speed.
    """
    plain = weights.detach().float()
    with _one_thread():
        changed, paid = _fed_back(plain, rounder, elimination, block)
    nearest = rounder.round(slice(0, plain.shape[1]), plain)
    return changed if paid <= cost(nearest - plain, elimination) else plain


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """A column is too little work to share: waking a second thread takes longer than doing it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fed_back(
    plain: Float32[Tensor, "out in"], rounder: Rounder, elimination: Elimination, block: int
) -> tuple[Float32[Tensor, "out in"], float]:
    """The changed matrix, and what its rounding costs: the sum of (e / U_jj)² over all columns."""
    order, upper, run = elimination.order, elimination.upper, rounder.together
    places, columns = order.tolist(), plain.shape[1]
    block = max(1, block // run) * run
    # In the order of rounding, and transposed, so that the weights of a column are neighbors.
    left, paid = plain.T[order].contiguous(), 0.0
    for first in range(0, columns, block):
        last = min(first + block, columns)
        here, errors = left[first:last], torch.empty(last - first, len(plain))
        for start in range(first, last, run):
            stop = min(start + run, last)
            now = slice(start - first, stop - first)
            values = here[now].T.contiguous()
            error = here[now] - rounder.round(slice(places[start], places[start] + stop - start), values).T
            own = upper[start:stop, start:stop].T
            scaled = error / own if run == 1 else torch.linalg.solve_triangular(own, error, upper=False)
            errors[now] = scaled
            if stop < last:
                here[now.stop :].addmm_(upper[start:stop, stop:last].T, scaled, alpha=-1)
        paid += float(errors.square().sum(dtype=torch.float64))
        if last < columns:
            left[last:].addmm_(upper[first:last, last:].T, errors, alpha=-1)
    changed = torch.empty_like(plain)
    changed[:, order] = left.T
    return changed, paid


def cost(change: Float[Tensor, "out in"], elimination: Elimination, row: Float[Tensor, " out"] | None = None) -> float:
    """tr(C H Cᵀ), rows weighed by `row`: what a change C of a matrix costs."""
    each = ((change @ elimination.moments) * change).sum(1, dtype=torch.float64)
    return float(each.sum() if row is None else each @ row.double())
