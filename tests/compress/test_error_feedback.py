"""Error feedback against brute force, its invariants, and inputs that are degenerate."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from octavo.base.errors import ModelError
from octavo.compress.rounding.error_feedback import by_energy, cost, eliminate, feed_back
from octavo.formats import Importance, parse

FORMATS = (
    "int@3 b16 absmax:bf16",
    "lloyd@2 b8 search:s8",
    "cbrt-t(df=5)@3 channel rms:fp32",
    "mxfp4",
    "columns(int@6=8,lloyd@3) b8 search:s8",
    "trellis(states=256)@3 channel rms:u8",
    "int@3 b16 absmax:bf16 outliers=0.02",
    "trellis(states=256)@3 channel rms:u8 outliers=0.02",
    "lattice-e8@3 b8 search:s8",
    "glvq(d=8)@3 channel rms:fp32",
    "grid(step=1.0) channel rms:bf16 ans",
    "grid(step=1.0,states=8) channel rms:bf16 ans",
)


def correlated(columns: int, seed: int, tokens: int = 64) -> Tensor:
    """Second moments of inputs that have much in common."""
    draws = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=draws) / columns**0.5 + torch.eye(columns)
    inputs = torch.randn(tokens, columns, generator=draws) @ mixing * torch.rand(columns, generator=draws)
    return inputs.T @ inputs / tokens


def weights(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1000 + seed)) * 0.02


def brute_force(matrix: Tensor, rounder, moments: Tensor, order: Tensor) -> Tensor:
    """After each column, the best of all changes of the columns that are left, by solving for it."""
    wide, changed = matrix.double(), matrix.double().clone()
    error = torch.zeros_like(wide)
    for place, column in enumerate(order.tolist()):
        done, left = order[:place], order[place:]
        if place:
            best = -torch.linalg.solve(moments[left][:, left], moments[left][:, done] @ error[:, done].T).T
            changed[:, column] = wide[:, column] + best[:, 0]
        now = slice(column, column + 1)
        error[:, now] = rounder.round(now, changed[:, now].float().contiguous()).double() - wide[:, now]
    return changed.float()


@pytest.mark.parametrize("text", FORMATS[:4])
@pytest.mark.parametrize("ordered", [False, True])
def test_feedback_is_the_best_change_of_the_columns_that_are_left(text: str, ordered: bool) -> None:
    matrix, moments = weights(9, 24, 0), correlated(24, 0)
    rounder = parse(text).settle(matrix)
    elimination = eliminate(moments, order=by_energy(moments) if ordered else None)
    expected = brute_force(matrix, rounder, elimination.moments.double(), elimination.order)
    torch.testing.assert_close(feed_back(matrix, rounder, elimination), expected, rtol=1e-3, atol=2e-5)


def test_blocks_change_nothing_but_speed() -> None:
    matrix, elimination = weights(9, 40, 0), eliminate(correlated(40, 0))
    rounder = parse("int@3 b16 absmax:bf16").settle(matrix)
    one, other = (feed_back(matrix, rounder, elimination, block) for block in (7, 40))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("run", [1, 4])
def test_the_strongest_inputs_come_first_and_runs_stay_together(run: int) -> None:
    moments = torch.diag(torch.rand(18, generator=torch.Generator().manual_seed(0)))
    order = by_energy(moments, run)
    assert sorted(order.tolist()) == list(range(18))
    runs = order[: 18 // run * run].view(-1, run)
    assert bool((runs == runs[:, :1] // run * run + torch.arange(run)).all())
    energy = moments.diagonal()[runs].sum(1)
    assert bool((energy.diff() <= 0).all())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(FORMATS), st.sampled_from([(5, 16), (12, 40), (3, 130)]))
def test_feedback_never_costs_more_than_nearest(seed: int, text: str, shape: tuple[int, int]) -> None:
    matrix, elimination = weights(*shape, seed), eliminate(correlated(shape[1], seed))
    rounder = parse(text).settle(matrix)
    whole = slice(0, shape[1])
    changed = rounder.round(whole, feed_back(matrix, rounder, elimination))
    nearest = rounder.round(whole, matrix)
    assert cost(changed - matrix, elimination) <= cost(nearest - matrix, elimination) * (1 + 1e-4)


def test_what_a_column_costs_is_its_conditional_importance() -> None:
    matrix, elimination = weights(20, 96, 1), eliminate(correlated(96, 1, tokens=500), 0.01)
    rounder = parse("int@4 b32 search:bf16").settle(matrix)
    changed = feed_back(matrix, rounder, elimination)
    rounded = rounder.round(slice(0, 96), changed)
    by_column = float(((rounded - changed).double().square() @ elimination.conditional.double()).sum())
    assert cost(rounded - matrix, elimination) == pytest.approx(by_column, rel=1e-3)
    nearest = rounder.round(slice(0, 96), matrix)
    assert by_column < 0.7 * cost(nearest - matrix, elimination)


def test_conditional_importance_has_the_determinant_and_never_exceeds_the_diagonal() -> None:
    moments = correlated(40, 2, tokens=400)
    elimination = eliminate(moments, order=torch.randperm(40, generator=torch.Generator().manual_seed(0)))
    wide = elimination.moments.double()
    assert float(elimination.conditional.double().log().sum()) == pytest.approx(float(wide.logdet()), rel=1e-4)
    assert bool((elimination.conditional <= wide.diagonal() * (1 + 1e-5)).all())


def test_inputs_that_have_nothing_in_common_are_rounded_to_nearest() -> None:
    matrix = weights(8, 32, 3)
    rounder = parse("int@3 b16 absmax:bf16").settle(matrix)
    elimination = eliminate(torch.diag(torch.rand(32, generator=torch.Generator().manual_seed(0)) + 0.1))
    torch.testing.assert_close(feed_back(matrix, rounder, elimination), matrix)


@pytest.mark.parametrize("case", ["zero", "dead", "rank one", "negative by rounding"])
def test_degenerate_moments_are_damped(case: str) -> None:
    matrix, moments = weights(6, 32, 4), correlated(32, 4)
    if case == "zero":
        moments = torch.zeros(32, 32)
    elif case == "dead":
        moments[:, ::3] = 0
        moments[::3] = 0
    elif case == "rank one":
        one = torch.randn(32, generator=torch.Generator().manual_seed(0))
        moments = torch.outer(one, one)
    else:
        moments = moments - 0.03 * moments.diagonal().mean() * torch.eye(32)
    elimination = eliminate(moments)
    rounder = parse("int@3 b16 absmax:bf16").settle(matrix, Importance(torch.ones(6), elimination.conditional))
    found = rounder.quantize(feed_back(matrix, rounder, elimination)).dequantize()
    assert bool(found.isfinite().all())
    assert float((found - matrix).abs().max()) < float(matrix.abs().max())


def test_moments_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ModelError, match="not finite"):
        eliminate(torch.full((4, 4), torch.nan))
