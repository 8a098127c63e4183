"""The precision law: its limits, the fit of noiseless runs, and what runs do not determine."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from octavo.base.errors import LawError
from octavo.laws.precision import PUBLISHED, PrecisionLaw, read_law
from octavo.laws.precision_fit import _Problem, fit
from octavo.laws.runs import Run, read_runs

TRUE = PrecisionLaw(alpha=0.63, beta=0.40, gamma=3.32, a=800.0, b=2000.0, e=1.7)


def grid(
    law: PrecisionLaw = TRUE,
    noise: float = 0.0,
    sizes: tuple[float, ...] = (3e6, 1e7, 3e7, 1e8),
    tokens: tuple[float, ...] = (1e9, 4e9, 16e9, 64e9),
    bits: tuple[float, ...] = (1, 2, 4, 16),
) -> list[Run]:
    """One run for each combination."""
    random = np.random.default_rng(0)
    return [
        Run(n, d, p, law.loss(n, d, p) * float(np.exp(noise * random.standard_normal())))
        for n in sizes
        for d in tokens
        for p in bits
    ]


@pytest.mark.parametrize(
    ("name", "fractions"),
    [
        ("uniform", {1: 0.2363, 2: 0.4167, 3: 0.5545, 4: 0.6598, 8: 0.8843, 16: 0.9866}),
        ("kmeans", {1: 0.2601, 2: 0.4525, 3: 0.5949, 4: 0.7003, 8: 0.9102, 16: 0.9919}),
    ],
)
def test_capacities_of_the_published_constants(name: str, fractions: dict[int, float]) -> None:
    for bits, fraction in fractions.items():
        assert PUBLISHED[name].capacity(float(bits)) == pytest.approx(fraction, abs=5e-5)


def test_effective_size_has_its_two_limits() -> None:
    law = PUBLISHED["kmeans"]
    assert law.effective(1e9, 200.0) == pytest.approx(1e9, rel=1e-12)
    assert law.effective(1e9, 1e-6) == pytest.approx(1e9 * 1e-6 / law.gamma, rel=1e-6)


def test_noiseless_runs_give_the_constants_back() -> None:
    found = fit(grid(), resamples=0)
    for name, value in dataclasses.asdict(TRUE).items():
        assert getattr(found.law, name) == pytest.approx(value, rel=1e-3), name
    assert found.error < 1e-6
    assert found.flags == ()
    assert found.intervals == {}


def test_gradient_is_that_of_the_objective() -> None:
    table = np.array([dataclasses.astuple(run) for run in grid(noise=0.01)])
    problem = _Problem(table, {}, 1e-3)
    point = np.array([6.0, 7.0, 0.4, 0.6, 0.41, 1.1])
    for index in range(6):
        step = np.eye(6)[index] * 1e-6
        slope = (problem.objective(point + step) - problem.objective(point - step)) / 2e-6
        assert problem.gradient(point)[index] == pytest.approx(float(slope), rel=1e-4, abs=1e-2)


def test_intervals_hold_the_truth_and_repeat_with_the_seed() -> None:
    runs = grid(noise=0.003)
    first, again = (fit(runs, resamples=40, level=0.98, seed=1) for _ in range(2))
    assert first == again
    for name in ("alpha", "beta", "gamma"):
        low, high = first.intervals[name]
        assert low < getattr(TRUE, name) < high
        assert high - low < 0.5 * getattr(TRUE, name)


def test_outliers_hardly_move_a_huber_fit() -> None:
    runs = grid()
    runs[5] = dataclasses.replace(runs[5], loss=runs[5].loss * 1.3)
    assert fit(runs, resamples=0).law.gamma == pytest.approx(TRUE.gamma, rel=0.02)


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        (grid()[:5], "5 runs do not determine 6 constants"),
        (grid(bits=(4,)), "hold gamma"),
        (grid(tokens=(1e9, 2e9)), "2 different numbers of tokens"),
        ([grid()[0]] * 20, "only 1 runs differ"),
    ],
)
def test_runs_that_do_not_determine_the_law_are_refused(runs: list[Run], words: str) -> None:
    with pytest.raises(LawError, match=words):
        fit(runs)


def test_constants_can_be_held() -> None:
    found = fit(grid(bits=(4,)), hold={"gamma": 3.32}, resamples=0)
    assert found.law.gamma == pytest.approx(3.32)
    assert found.law.alpha == pytest.approx(0.63, rel=1e-3)
    flat = dataclasses.replace(TRUE, b=0.0)
    without = fit(grid(flat, tokens=(1e9,), sizes=(1e6, 3e6, 1e7, 3e7)), hold={"b": 0.0, "beta": 1.0}, resamples=0)
    assert without.law.b == 0
    assert without.law.gamma == pytest.approx(3.32, rel=1e-3)
    with pytest.raises(LawError, match="no constant delta"):
        fit(grid(), hold={"delta": 1.0})


def test_a_constant_that_no_run_speaks_of_is_flagged() -> None:
    # Without irreducible loss, log E runs away to the edge.
    found = fit(grid(dataclasses.replace(TRUE, e=0.0)), resamples=0)
    assert any("e ended at the edge" in flag or "hardly tell" in flag for flag in found.flags)


def test_runs_are_read_from_lines_and_from_journals(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    lines = [
        {"parameters": 1e6, "tokens": 1e8, "bits": 4, "loss": 3.0, "seed": 1},
        {"key": "x", "job": {"bits": 2, "tokens": 1e8}, "result": {"parameters": 1e6, "loss": 3.1}},
        {"key": "y", "job": {"bits": 1}, "error": "killed"},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert read_runs(path) == [Run(1e6, 1e8, 4, 3.0), Run(1e6, 1e8, 2, 3.1)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no runs"),
        ("{}", "line 1 is no run"),
        ("[1]", "line 1"),
        ("not json", "line 1"),
        ('{"parameters": 1, "tokens": 1, "bits": 1, "loss": -1}', "loss is -1"),
        ('{"parameters": 1, "tokens": 1, "bits": 1, "loss": NaN}', "loss is nan"),
    ],
)
def test_bad_files_of_runs_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(text)
    with pytest.raises(LawError, match=words):
        read_runs(path)


def test_constants_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "law.json"
    path.write_text(json.dumps(dataclasses.asdict(TRUE)))
    assert read_law(str(path)) == TRUE
    path.write_text('{"alpha": 0.6, "beta": 0.4, "gamma": 3, "a": null}')
    assert not read_law(str(path)).predicts_loss
    with pytest.raises(LawError, match="no A, B and E"):
        read_law(str(path)).loss(1e6, 1e9, 1.0)
    for text in ('{"alpha": 0.6}', "[]", "{", '{"alpha": 0.6, "beta": 0.4, "gamma": 0}'):
        path.write_text(text)
        with pytest.raises(LawError):
            read_law(str(path))
    with pytest.raises(LawError, match="kmeans or uniform"):
        read_law("kmean")
