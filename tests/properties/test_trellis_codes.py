"""Costs and statistics of trellis indices against sums by hand, and what a trellis saves on known sources."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from octavo import kernels
from octavo.formats import trellis_codes
from octavo.formats.coding import scale_context
from octavo.measure import sources
from octavo.measure.rate_distortion import rate_bound

WIDE = 8191


def test_laplace_bits_are_those_of_a_law() -> None:
    chances = np.exp2(-trellis_codes.laplace_bits(WIDE))
    chances[:, :, 1:] *= 2
    assert chances.sum(2) == pytest.approx(np.ones((2, scale_context.FINEST)))


def test_laplace_bits_are_the_masses_of_the_cells() -> None:
    context = 20
    law = sources.Laplace(2 * scale_context.center()[context] / np.sqrt(2))
    bits = trellis_codes.laplace_bits(5)[:, context]
    edges = np.array([[1, 3, 5, 7, 9, 11], [0.5, 2, 4, 6, 8, 10]])
    for quantizer in (0, 1):
        masses = np.diff(law.cdf(edges[quantizer]))
        assert bits[quantizer, 1:] == pytest.approx(-np.log2(masses))
        assert bits[quantizer, 0] == pytest.approx(-np.log2(2 * law.cdf(edges[quantizer][:1]) - 1)[0])


@given(st.floats(0, 2), st.integers(1, 600))
def test_costs_are_finite_and_grow_with_thrift(thrift: float, largest: int) -> None:
    costs = trellis_codes.laplace_costs(thrift, largest)
    assert costs.shape == (2, scale_context.FINEST, largest + 1)
    assert costs.dtype == np.float32
    assert np.isfinite(costs).all()
    assert (costs >= 0).all()
    assert np.array_equal(costs, (thrift * trellis_codes.laplace_bits(largest)).astype(np.float32))


def test_counted_costs_follow_the_counts_and_fall_back_on_the_law() -> None:
    counts = np.zeros((2, scale_context.FINEST, 6), dtype=np.int64)
    assert trellis_codes.counted_costs(1, counts)[:, 5] == pytest.approx(trellis_codes.laplace_bits(5)[:, 5], rel=1e-3)
    counts[1, 3] = [4_000_000, 2_000_000, 1_000_000, 500_000, 500_000, 0]
    found = trellis_codes.counted_costs(0.5, counts)
    assert np.isfinite(found).all()
    assert found[1, 3, :5] == pytest.approx(0.5 * np.array([1, 3, 4, 5, 5]), abs=1e-3)


def test_counts_bits_and_centroids_by_hand() -> None:
    indices = np.array([[0, 2], [-1, 1], [0, -1]], dtype=np.int16)
    quantizers = np.array([[0, 0], [1, 0], [1, 1]], dtype=np.uint8)
    context = np.array([[0, 7], [0, 0], [0, 0]], dtype=np.uint8)
    counts = trellis_codes.count_sizes(indices, quantizers, context, 3)
    assert counts.shape == (2, scale_context.FINEST, 4)
    assert counts.sum() == 6
    assert counts[1, 0].tolist() == [1, 2, 0, 0]
    assert counts[0, 7].tolist() == [0, 0, 1, 0]
    # Signs of 4 indices; 0 and 1 of the first quantizer one bit each; 1, 2 of 3 of the second.
    assert trellis_codes.coded_bits(counts) == pytest.approx(4 + 2 + 3 * np.log2(3) - 2)
    scaled = np.array([[0.3, 3.5], [-0.75, 2.5], [0, -1.0]], dtype=np.float32)
    found = trellis_codes.shortfalls(scaled, indices, quantizers, 2)
    assert found.tolist() == [[-0.5, 0.5], [0.125, 0.0]]


@pytest.mark.parametrize(("states", "gap"), [(4, 0.16), (8, 0.145), (64, 0.12)])
def test_a_trellis_comes_near_the_bound(states: int, gap: float, generator: torch.Generator) -> None:
    """A normal source at about two bits; the scalar grid stays 0.26 bits away."""
    source = sources.source("normal")
    step = 1.0
    samples = source.sample(1 << 17, generator).reshape(2048, -1)
    scaled = samples * (2 / step)
    number = int(scale_context.quarter_log2(np.array([1 / step]))[0]) + scale_context.FLOOR
    context = torch.full(scaled.shape, number, dtype=torch.uint8)

    def encoded(cost: NDArray[np.float32]) -> tuple[torch.Tensor, NDArray[np.int64]]:
        indices = kernels.trellis_indices(scaled, context, torch.from_numpy(cost), states)
        quantizers = kernels.trellis_quantizers(indices, states).numpy()
        return indices, trellis_codes.count_sizes(indices.numpy(), quantizers, context.numpy(), 20)

    thrift = trellis_codes.THRIFT
    _, counts = encoded(trellis_codes.laplace_costs(thrift, 20))
    indices, counts = encoded(trellis_codes.counted_costs(thrift, counts))
    error = float((kernels.trellis_values(indices, states) - scaled).square().mean()) / 4 * step**2
    bits = trellis_codes.coded_bits(counts) / scaled.numel()
    assert 1.5 < bits < 2.5
    assert bits - rate_bound(source, error) < gap
