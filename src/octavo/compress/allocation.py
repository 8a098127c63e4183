"""Sharing out bits: the continuous optimum in closed form, and the discrete choice with a bound on what it misses.

Minimizing Σ N_t F_t σ_t² 2^(-2 b_t) under Σ N_t b_t = b̄ Σ N_t gives b_t = b0 + log2 σ_t + ½ log2 F_t (arXiv
2505.12988, section on allocation). Real formats have a few sizes each: the choice among them is a multiple-choice
knapsack, solved by a Lagrangian sweep and a greedy use of what is left; the dual bound tells how far from the optimum
the result can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from octavo.base.errors import BudgetError


def closed_form_bits(
    rms: Float[ndarray, " tensors"], fisher: Float[ndarray, " tensors"], numel: Float[ndarray, " tensors"], mean: float
) -> Float[ndarray, " tensors"]:
    """Optimal bits of each tensor, none below 0, averaging `mean` over all weights.

    Args:
        rms: root mean square of each tensor.
        fisher: mean importance of its weights.
        numel: its size.
        mean: average bits per weight.
    """
    need = np.log2(rms) + 0.5 * np.log2(fisher)
    active = np.ones(len(need), dtype=bool)
    while True:
        level = (mean * numel.sum() - (need * numel)[active].sum()) / numel[active].sum()
        bits = np.where(active, need + level, 0.0)
        if (bits >= 0).all():
            return bits
        active &= bits > 0


@dataclass(frozen=True)
class Choice:
    """A discrete allocation.

    Attributes:
        picks: chosen option of each item.
        size: total size.
        loss: total loss.
        bound: no allocation within the budget loses less.
    """

    picks: tuple[int, ...]
    size: float
    loss: float
    bound: float

    @property
    def gap(self) -> float:
        """Largest possible excess over the optimum, as a fraction of it."""
        return self.loss / self.bound - 1 if self.bound > 0 else 0.0


def check_possible(sizes: Sequence[Sequence[float]], budget: float) -> None:
    """Refuse a budget that even the smallest options exceed.

    Raises:
        BudgetError: they do.
    """
    least = sum(min(options) for options in sizes)
    if least > budget:
        raise BudgetError(
            f"the smallest formats take {least / 8e6:.2f} MB and the budget is {budget / 8e6:.2f} MB",
            "raise the budget",
        )


def choose(sizes: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], budget: float) -> Choice:
    """Pick one option of each item so that the loss is small and the size within the budget.

    Args:
        sizes: size of each option of each item.
        losses: its loss.
        budget: hard bound on the sum of sizes.

    Raises:
        BudgetError: even the smallest options exceed the budget.
    """
    check_possible(sizes, budget)
    smallest = [int(np.argmin(options)) for options in sizes]
    size, loss = [np.asarray(s, float) for s in sizes], [np.asarray(v, float) for v in losses]

    def at(price: float) -> list[int]:
        # Of options that cost the same, the smallest: the sum of sizes then falls as the price rises.
        return [int(np.lexsort((s, v + price * s))[0]) for s, v in zip(size, loss, strict=True)]

    def total(picks: Sequence[int], of: list[np.ndarray]) -> float:
        return float(sum(values[pick] for values, pick in zip(of, picks, strict=True)))

    low, high = 0.0, 1e-30
    while total(at(high), size) > budget:
        low, high = high, high * 4
        if high > 1e60:
            break
    for _ in range(200):
        middle = (low * high) ** 0.5 if low > 0 else high / 2
        if total(at(middle), size) > budget:
            low = middle
        else:
            high = middle
        if low > 0 and high / low < 1 + 1e-9:
            break
    picks = at(high)
    if total(picks, size) > budget:
        picks = list(smallest)
    bound = total(at(high), loss) + high * (total(at(high), size) - budget)
    _spend(picks, size, loss, budget - total(picks, size))
    return Choice(tuple(picks), total(picks, size), total(picks, loss), max(0.0, min(bound, total(picks, loss))))


def _spend(picks: list[int], size: list[np.ndarray], loss: list[np.ndarray], left: float) -> None:
    """Use what is left of the budget, the best exchange rate first."""
    while True:
        best: tuple[float, int, int] | None = None
        for item, pick in enumerate(picks):
            more, gain = size[item] - size[item][pick], loss[item][pick] - loss[item]
            for option in np.flatnonzero((more <= left) & (gain > 0)):
                rate = gain[option] / max(more[option], 1e-9)
                if best is None or rate > best[0]:
                    best = rate, item, int(option)
        if best is None:
            return
        _, item, option = best
        left -= size[item][option] - size[item][picks[item]]
        picks[item] = option
