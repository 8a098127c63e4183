"""Sharing out bits: the closed form against a numeric optimum, the discrete choice against all choices there are."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from octavo.base.errors import BudgetError
from octavo.compress.allocation import choose, closed_form_bits

SEEDS = st.integers(0, 2**32 - 1)


def tensors(seed: int, count: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rms, fisher = np.exp(spread * rng.standard_normal((2, count)))
    return rms, fisher, rng.integers(100, 10_000, count).astype(float)


@given(SEEDS, st.integers(1, 6), st.floats(0.5, 6), st.floats(0, 2))
def test_closed_form_is_the_constrained_optimum(seed: int, count: int, mean: float, spread: float) -> None:
    rms, fisher, numel = tensors(seed, count, spread)
    share = numel / numel.sum()
    bits = closed_form_bits(rms, fisher, numel, mean)

    def loss(b: np.ndarray) -> float:
        return float((share * fisher * rms**2 * 4**-b).sum())

    found = minimize(
        lambda b: np.log(loss(b)),
        np.full(count, mean),
        bounds=[(0, None)] * count,
        constraints={"type": "eq", "fun": lambda b: (share * b).sum() - mean},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert loss(bits) <= loss(found.x) * (1 + 1e-6)
    assert (share * bits).sum() == pytest.approx(mean, rel=1e-9)
    assert (bits >= 0).all()


@given(SEEDS, st.integers(2, 8))
def test_four_times_the_fisher_is_one_bit_more_than_the_others(seed: int, count: int) -> None:
    rms, fisher, numel = tensors(seed, count, 0.3)
    before = closed_form_bits(rms, fisher, numel, 8.0)
    fisher[0] *= 4
    after = closed_form_bits(rms, fisher, numel, 8.0)
    gain = (after - before)[0] - (after - before)[1:]
    np.testing.assert_allclose(gain, 1, rtol=1e-9)
    np.testing.assert_allclose((after * numel).sum() / numel.sum(), 8, rtol=1e-12)


@st.composite
def instances(draw: st.DrawFn) -> tuple[list[list[float]], list[list[float]], float]:
    """Up to five items of up to four options, in no order; the budget lies between the least and the most."""
    options = st.lists(st.tuples(st.integers(1, 50), st.floats(0, 100)), min_size=1, max_size=4)
    items = draw(st.lists(options, min_size=1, max_size=5))
    sizes = [[float(size) for size, _ in item] for item in items]
    losses = [[loss for _, loss in item] for item in items]
    least, most = sum(map(min, sizes)), sum(map(max, sizes))
    return sizes, losses, least + draw(st.floats(0, 1)) * (most - least)


@given(instances())
def test_choice_is_within_the_budget_and_its_bound_is_one(
    instance: tuple[list[list[float]], list[list[float]], float],
) -> None:
    sizes, losses, budget = instance
    chosen = choose(sizes, losses, budget)
    assert chosen.size == sum(options[pick] for options, pick in zip(sizes, chosen.picks, strict=True))
    assert chosen.size <= budget
    assert chosen.loss == pytest.approx(sum(o[p] for o, p in zip(losses, chosen.picks, strict=True)))
    optimum = min(
        sum(options[pick] for options, pick in zip(losses, picks, strict=True))
        for picks in product(*(range(len(options)) for options in sizes))
        if sum(options[pick] for options, pick in zip(sizes, picks, strict=True)) <= budget
    )
    assert chosen.bound <= optimum * (1 + 1e-6) + 1e-9
    assert chosen.loss >= optimum - 1e-9
    if chosen.bound > 0:
        assert chosen.gap == pytest.approx(chosen.loss / chosen.bound - 1)
        assert chosen.loss <= optimum * (1 + chosen.gap) * (1 + 1e-6) + 1e-9
    # Nothing that still fits would lose less.
    for item, pick in enumerate(chosen.picks):
        for size, loss in zip(sizes[item], losses[item], strict=True):
            assert loss >= losses[item][pick] or chosen.size - sizes[item][pick] + size > budget


@pytest.mark.parametrize("seed", range(4))
def test_many_items_leave_almost_no_gap(seed: int) -> None:
    rms, fisher, numel = tensors(seed, 200)
    rates = np.arange(1, 9)
    sizes = [list(n * rates) for n in numel]
    losses = [list(n * f * s**2 * 4.0**-rates) for n, f, s in zip(numel, fisher, rms, strict=True)]
    chosen = choose(sizes, losses, 3.0 * numel.sum())
    assert 0 <= chosen.gap < 0.01
    assert chosen.size > 2.99 * numel.sum()


def test_what_the_smallest_formats_exceed_is_refused() -> None:
    with pytest.raises(BudgetError, match="the smallest formats take"):
        choose([[10.0, 20.0], [30.0, 16.0]], [[1.0, 0.0], [1.0, 2.0]], 25.0)


def test_losses_of_nothing_are_no_division_by_zero() -> None:
    assert choose([[1.0, 2.0]], [[0.0, 0.0]], 2.0).gap == 0
