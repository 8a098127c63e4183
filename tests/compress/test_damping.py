"""Damping is found by checking one half of a text on the other."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor

from octavo.calibrate.hessian import Moments
from octavo.compress.rounding.damping import CANDIDATES, FEWER, damping_for, log_cost
from octavo.compress.rounding.error_feedback import DAMPING, cost, eliminate, feed_back
from octavo.formats import Importance, QuantizedTensor, parse

COLUMNS = 48


def moments(tokens: int, seed: int = 0) -> Moments:
    """Of two halves of inputs that have much in common, the same in both."""
    draws = torch.Generator().manual_seed(seed)
    mixing = torch.randn(COLUMNS, COLUMNS, generator=torch.Generator().manual_seed(9)) / COLUMNS**0.5
    halves = [torch.randn(tokens, COLUMNS, generator=draws) @ (mixing + 0.5 * torch.eye(COLUMNS)) for _ in range(2)]
    return Moments(torch.stack([half.T @ half for half in halves]), (float(tokens), float(tokens)))


def test_the_cost_of_what_is_known_exactly_is_its_determinant() -> None:
    whole = moments(4000).whole
    assert log_cost(whole, whole, 0.0) == pytest.approx(float(whole.double().logdet()) / COLUMNS, abs=1e-4)


def test_the_cost_predicts_what_rounding_loses_on_the_other_half() -> None:
    seen = moments(60)
    matrix = torch.randn(2000, COLUMNS, generator=torch.Generator().manual_seed(1))
    lost, predicted = [], []
    for damping in CANDIDATES:
        elimination = eliminate(seen.half(0), damping)
        importance = Importance(torch.ones(2000), elimination.conditional)
        steps = 0.1 / importance.column.sqrt() * importance.column.log().mean().div(2).exp()
        rounder = _Columns(steps)
        changed = feed_back(matrix, rounder, elimination)
        change = rounder.round(slice(0, COLUMNS), changed) - matrix
        lost.append(log(float(((change @ seen.half(1)) * change).sum()) / (2000 * COLUMNS * 0.01 / 12)))
        predicted.append(log_cost(seen.half(0), seen.half(1), damping))
    assert predicted == pytest.approx(lost, abs=0.05)


class _Columns:
    """Multiples of a step of each column."""

    together = 1

    def __init__(self, steps: Tensor) -> None:
        self._steps = steps

    def round(self, columns: slice, values: Tensor) -> Tensor:
        return (values / self._steps[columns]).round() * self._steps[columns]

    def quantize(self, weights: Tensor) -> QuantizedTensor:
        raise NotImplementedError


def test_more_text_needs_less_damping() -> None:
    found = [damping_for(moments(tokens)) for tokens in (30, 300, 30_000)]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]
    assert found[-1] == FEWER * CANDIDATES[0]


def test_damping_that_was_found_loses_less_on_other_text_than_hardly_any() -> None:
    seen, other = moments(40), moments(2000, seed=5).whole
    matrix = torch.randn(64, COLUMNS, generator=torch.Generator().manual_seed(1))
    lost = []
    for damping in (1e-4, damping_for(seen)):
        elimination = eliminate(seen.whole, damping)
        rounder = parse("grid@3.0 separable ans").settle(matrix, Importance(torch.ones(64), elimination.conditional))
        found = rounder.quantize(feed_back(matrix, rounder, elimination))
        lost.append(cost(found.dequantize() - matrix, eliminate(other, 0.0)) * 4 ** (found.bits_per_weight))
    assert lost[1] < 0.9 * lost[0]


@pytest.mark.parametrize("case", ["one sequence", "no strength", "nothing"])
def test_without_a_second_half_a_typical_damping_is_taken(case: str) -> None:
    seen = moments(100)
    strengths = {"one sequence": (100.0, 0.0), "no strength": (0.0, 0.0), "nothing": (100.0, 100.0)}[case]
    sums = torch.zeros_like(seen.sums) if case == "nothing" else seen.sums
    assert damping_for(Moments(sums, strengths)) == DAMPING
