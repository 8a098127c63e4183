"""Tokens are kept as transformers' processors keep them, and drawn as often as their probabilities say."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.base.errors import ModelError
from octavo.decoding.sampling import Sampler, Sampling, candidates, choose


def processed(logits: torch.Tensor, sampling: Sampling, occurred: list[int] | None = None) -> torch.Tensor:
    """By transformers' own classes, in the order of its generation."""
    from transformers import generation

    steps: list[Any] = [generation.TemperatureLogitsWarper(sampling.temperature)]
    if sampling.repetition_penalty != 1:
        steps.insert(0, generation.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.top_k:
        steps.append(generation.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(generation.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        steps.append(generation.MinPLogitsWarper(sampling.min_p))
    tokens, scores = torch.tensor([occurred or [0]]), logits[None]
    for step in steps:
        scores = step(tokens, scores)
    return scores[0]


@given(
    st.integers(0, 2**31),
    st.sampled_from((2, 5, 60, 3000)),
    st.floats(0.2, 3),
    st.sampled_from((0, 1, 3, 50)),
    st.sampled_from((0.1, 0.5, 0.9, 0.99, 1.0)),
    st.sampled_from((0.0, 0.02, 0.3, 1.0)),
)
def test_the_same_tokens_are_kept(
    seed: int, size: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = 3 * torch.randn(size, generator=torch.Generator().manual_seed(seed))
    sampling = Sampling(temperature, top_k, top_p, min_p)
    values, tokens = candidates(logits, sampling)
    found = torch.full((size,), -math.inf)
    found[tokens] = values
    assert torch.equal(found, processed(logits, sampling))


def test_ties_at_the_border_of_top_k_stay() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, 2.0])
    assert sorted(candidates(logits, Sampling(1.0, top_k=2))[1].tolist()) == [1, 2, 3]


def test_flat_logits_need_many_candidates() -> None:
    logits = torch.linspace(0, 1e-3, 9000)
    values, _ = candidates(logits, Sampling(1.0, top_p=0.9))
    assert len(values) == int(processed(logits, Sampling(1.0, top_p=0.9)).isfinite().sum())


def test_repeated_tokens_are_punished(generator: torch.Generator) -> None:
    logits = torch.randn(40, generator=generator)
    sampling = Sampling(1.0, top_k=1, repetition_penalty=1.9)
    sampler = Sampler(sampling, [3, 3, 7], 40)
    occurred = [3, 7]
    for _ in range(20):
        expected = int(processed(logits, sampling, occurred).argmax())
        assert sampler(logits) == expected
        occurred.append(expected)


def test_greedy_is_the_likeliest(generator: torch.Generator) -> None:
    logits = torch.randn(40, generator=generator)
    assert Sampler(Sampling(), [], 40)(logits) == int(logits.argmax())


def test_draws_follow_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 7.0])
    sampler = Sampler(Sampling(0.7, seed=5, min_p=1e-5), [], 5)
    counts = torch.bincount(torch.tensor([sampler(logits[:4]) for _ in range(3000)]), minlength=4)
    assert torch.allclose(counts / 3000, torch.softmax(logits[:4] / 0.7, -1), atol=0.03)


def test_requests_together_get_what_each_gets_alone(generator: torch.Generator) -> None:
    logits = 3 * torch.randn(9, 700, generator=generator)
    settings = [Sampling(), Sampling(0.7, seed=3), Sampling(1.0, top_k=5), Sampling(1.5, repetition_penalty=1.2)] * 2
    together, alone = ([Sampler(each, [1], 700) for each in settings] for _ in range(2))
    rows = [8, 1, 2, 0, 4, 7, 3, 5]
    for _ in range(20):
        found = choose(together, logits, rows, logits.argmax(-1)[rows].tolist())
        assert found == [sampler(logits[row]) for sampler, row in zip(alone, rows, strict=True)]


def test_a_seed_decides_the_draws_and_nothing_else_does() -> None:
    logits = torch.zeros(1000)
    state = torch.random.get_rng_state()
    one, same, other = (Sampler(Sampling(1.0, seed=seed), [], 1000) for seed in (1, 1, 2))
    assert [one(logits) for _ in range(5)] == [same(logits) for _ in range(5)] != [other(logits) for _ in range(5)]
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_not_finite_is_no_token(bad: float, temperature: float) -> None:
    with pytest.raises(ModelError, match="not finite"):
        Sampler(Sampling(temperature), [], 3)(torch.tensor([0.0, bad, 1.0]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", math.nan),
        ("repetition_penalty", 0.0),
        ("seed", 1 << 64),
    ],
)
def test_senseless_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(ModelError, match=name):
        Sampling(**{name: value})
