"""Two linear layers: the closed form against draws of the noise and against gradient descent."""

from __future__ import annotations

import numpy as np
import pytest

from octavo.laws.overtraining_theory import TwoLayers

MODEL, NOISE = TwoLayers.harmonic(), 0.06
TIMES = np.concatenate([[0.0], np.geomspace(0.5, 2000, 60)])


def perturbed(time: float, noise: float = NOISE) -> float:
    return MODEL.loss(MODEL.learned(time), noise)


def test_anchors() -> None:
    assert MODEL.threshold(NOISE) == pytest.approx(0.4608)
    sigma = np.array(MODEL.values)
    whole = [MODEL.loss(np.where(np.arange(64) < k, sigma, 0.0), NOISE) for k in range(65)]
    assert int(np.argmin(whole)) == 2
    assert [whole[k] for k in (0, 2, 64)] == pytest.approx([2.5134, 2.2340, 2.7917], abs=1e-4)
    assert MODEL.lower_bound(NOISE) == pytest.approx(2.1754, abs=1e-4)
    times = (0, 5, 10, 20, 80, 320)
    assert [perturbed(t) for t in times] == pytest.approx([2.5144, 2.2182, 2.2153, 2.3022, 2.6133, 2.7915], abs=1e-4)
    plain = [MODEL.loss(MODEL.learned(t)) for t in times]
    assert plain == pytest.approx([0.8142, 0.3544, 0.1689, 0.0712, 0.0072, 0], abs=1e-4)
    assert MODEL.sensitivity(0, NOISE) == pytest.approx(1.7002, abs=1e-4)
    assert MODEL.sensitivity(1e6, NOISE) == pytest.approx(2.7917, abs=1e-4)


@pytest.mark.parametrize("time", [0.0, 10.0, 80.0])
def test_formula_is_the_mean_over_draws_of_the_noise(time: float) -> None:
    random = np.random.default_rng(0)
    first, second = MODEL.layers(MODEL.learned(time))
    target = np.diag(MODEL.values)
    losses = [
        0.5 * ((a @ b - target) ** 2).sum()
        for a, b in (
            (
                first + NOISE * random.standard_normal(first.shape),
                second + NOISE * random.standard_normal(second.shape),
            )
            for _ in range(200)
        )
    ]
    assert abs(np.mean(losses) - perturbed(time)) < 3 * np.std(losses) / np.sqrt(200)


def test_gradient_descent_goes_along_the_closed_form() -> None:
    small = TwoLayers((1.0, 0.7, 0.4), width=6)
    target = np.zeros((6, 6))
    np.fill_diagonal(target[:3, :3], small.values)
    first, second = small.layers(np.full(3, small.start))
    for step in range(1, 15_001):
        error = first @ second - target
        first, second = first - 1e-3 * error @ second.T, second - 1e-3 * first.T @ error
        if step in (3000, 6000, 9000, 15_000):
            assert np.diag(first @ second)[:3] == pytest.approx(small.learned(step * 1e-3), rel=0.01)


def test_sensitivity_never_falls_and_the_best_time_comes_sooner_with_more_noise() -> None:
    best = []
    for noise in (0.03, 0.045, 0.06, 0.08):
        curve = [MODEL.sensitivity(time, noise) for time in TIMES]
        assert all(np.diff(curve) >= 0)
        losses = [perturbed(time, noise) for time in TIMES]
        assert min(losses) >= MODEL.lower_bound(noise)
        best.append(TIMES[int(np.argmin(losses))])
        sigma = np.array(MODEL.values)
        assert losses[-1] == pytest.approx(MODEL.loss(sigma, noise), abs=1e-3)
        assert losses[-1] > min(losses)
    assert all(np.diff(best) < 0)


def test_sensitivity_goes_with_the_square_of_small_noise() -> None:
    for time in (5.0, 80.0):
        assert 3.8 < MODEL.sensitivity(time, 2e-3) / MODEL.sensitivity(time, 1e-3) < 4.2
