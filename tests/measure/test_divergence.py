"""Divergences against their definitions, and figures over sequences."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.base.errors import ModelError
from octavo.measure.divergence import Estimate, compare, estimate, position_edges, summarize


def random_logits(seed: int, length: int = 40, vocabulary: int = 17, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(length, vocabulary, generator=torch.Generator().manual_seed(seed))


def test_divergences_are_torchs() -> None:
    p, q = random_logits(0), random_logits(1)
    labels = torch.arange(39) % 17
    found = compare(p, q, labels)
    log_p, log_q = (torch.log_softmax(x.double(), -1) for x in (p, q))
    kl = torch.nn.functional.kl_div
    assert torch.allclose(found.forward, kl(log_q, log_p, reduction="none", log_target=True).sum(-1))
    assert torch.allclose(found.backward, kl(log_p, log_q, reduction="none", log_target=True).sum(-1))
    assert torch.allclose(found.loss, -log_q[torch.arange(39), labels])
    assert torch.allclose(found.reference_loss, -log_p[torch.arange(39), labels])
    assert torch.equal(found.agreement, (p.argmax(-1) == q.argmax(-1)).double())


@given(st.integers(0, 2**32), st.floats(1e-6, 8), st.floats(-50, 50))
def test_divergences_are_positive_and_blind_to_shifts(seed: int, size: float, shift: float) -> None:
    p = random_logits(seed)
    q = p + size * random_logits(seed + 1, scale=1.0)
    labels = torch.zeros(40, dtype=torch.long)
    found, shifted = compare(p, q, labels), compare(p, q + shift, labels)
    assert bool((found.forward >= -1e-13).all() and (found.backward >= -1e-13).all())
    assert torch.allclose(found.forward, shifted.forward, rtol=1e-3, atol=1e-9)


def test_a_tiny_divergence_is_not_drowned_in_rounding() -> None:
    # To second order, KL is half the variance of the change of the logits.
    p = random_logits(0, vocabulary=5000)
    change = 1e-3 * random_logits(1, vocabulary=5000, scale=1.0)
    weights = p.double().softmax(-1)
    actual = (p + change).double() - p.double()
    mean = (weights * actual).sum(-1, keepdim=True)
    expected = 0.5 * (weights * (actual - mean).square()).sum(-1)
    found = compare(p, p + change, torch.zeros(40, dtype=torch.long))
    assert torch.allclose(found.forward, expected, rtol=1e-2)


def test_equal_models_do_not_differ() -> None:
    p = random_logits(0)
    summary = summarize([compare(p, p, torch.zeros(39, dtype=torch.long))] * 2)
    assert summary.forward == summary.backward == summary.excess_loss == Estimate(0.0, 0.0)
    assert summary.agreement == Estimate(1.0, 0.0)
    assert summary.perplexity == summary.reference_perplexity


def test_errors_are_over_sequences() -> None:
    found = [compare(random_logits(2 * i), random_logits(2 * i + 1), torch.zeros(39).long()) for i in range(5)]
    summary = summarize(found)
    means = torch.stack([sequence.forward.mean() for sequence in found])
    assert summary.forward.mean == pytest.approx(float(means.mean()))
    assert summary.forward.error == pytest.approx(float(means.std()) / math.sqrt(5))
    assert summary.sequences == 5
    assert summary.tokens == 200
    assert summary.perplexity == pytest.approx(math.exp(summary.loss.mean))
    assert math.isnan(estimate(torch.ones(1, dtype=torch.float64)).error)


@given(st.integers(1, 5000))
def test_bins_cover_all_positions_once(length: int) -> None:
    edges = position_edges(length)
    assert edges[0] == 0
    assert edges[-1] == length
    assert all(a < b for a, b in pairwise(edges))


def test_bins_average_to_the_whole() -> None:
    found = [compare(random_logits(i), random_logits(i + 9), torch.zeros(39).long()) for i in range(3)]
    summary = summarize(found)
    assert [(b.begin, b.end) for b in summary.positions] == [(0, 16), (16, 32), (32, 40)]
    weighted = sum((b.end - b.begin) * b.forward.mean for b in summary.positions)
    assert weighted / 40 == pytest.approx(summary.forward.mean)


def test_what_cannot_be_compared_is_said() -> None:
    p = random_logits(0)
    with pytest.raises(ModelError, match="not finite"):
        compare(p, torch.full_like(p, torch.nan), torch.zeros(39).long())
    with pytest.raises(ModelError, match="nothing to evaluate on"):
        summarize([])
