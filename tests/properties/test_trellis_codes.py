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
from octavo.formats.grid_census import Census, census_of
from octavo.formats.grid_codes import Grid, Indices, Steps
from octavo.measure import sources
from octavo.measure.rate_distortion import rate_bound

WIDE = 8191

THRIFT = 0.25
"""Loss in squared fine steps that one bit is worth."""

PRIOR = 16.0
"""Indices that the Laplace law counts for beside those that were counted."""


def counted_costs(thrift: float, counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Costs from how often sizes occurred, `PRIOR` more indices following the Laplace law: a second pass's."""
    prior = trellis_codes.laplace_bits(counts.shape[2] - 1)
    # A size above 0 stands for two indices, and the sign's bit is no choice that counts would show.
    prior[:, :, 1:] -= 1
    chances = np.exp2(-np.minimum(prior, 1000))
    joint = (counts + PRIOR * chances) / (counts.sum(2, keepdims=True) + PRIOR * chances.sum(2, keepdims=True))
    bits = -np.log2(np.maximum(joint, 1e-300))
    bits[:, :, 1:] += 1
    return (thrift * bits).astype(np.float32)


def coded_bits(counts: NDArray[np.int64]) -> float:
    """Bits of an ideal code of counted indices with a table for each quantizer and context, signs one bit each."""
    shares = counts / np.maximum(counts.sum(2, keepdims=True), 1)
    entropy = -(counts * np.log2(np.where(counts > 0, shares, 1))).sum()
    return float(entropy + counts[:, :, 1:].sum())


def census(
    indices: NDArray[np.int16], quantizers: NDArray[np.uint8], context: NDArray[np.uint8], fine: NDArray[np.float32]
) -> Census:
    """The census of weights in fine steps, of which two make a step."""
    row, column = (np.zeros(side, np.int16) for side in indices.shape)
    grid = Grid(Steps(1.0, row, column), row, column, 0.0, states=4)
    return census_of([Indices(indices, quantizers, context, fine / 2)], grid)


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
    assert counted_costs(1, counts)[:, 5] == pytest.approx(trellis_codes.laplace_bits(5)[:, 5], rel=1e-3)
    counts[1, 3] = [4_000_000, 2_000_000, 1_000_000, 500_000, 500_000, 0]
    found = counted_costs(0.5, counts)
    assert np.isfinite(found).all()
    assert found[1, 3, :5] == pytest.approx(0.5 * np.array([1, 3, 4, 5, 5]), abs=1e-3)


def test_counts_bits_and_centroids_by_hand() -> None:
    indices = np.array([[0, 2], [-1, 1], [0, -1]], dtype=np.int16)
    quantizers = np.array([[0, 0], [1, 0], [1, 1]], dtype=np.uint8)
    context = np.array([[0, 7], [0, 0], [0, 0]], dtype=np.uint8)
    scaled = np.array([[0.3, 3.5], [-0.75, 2.5], [0, -1.0]], dtype=np.float32)
    found = census(indices, quantizers, context, scaled)
    counts = found.counts[:, :, :4]
    assert counts.shape == (2, scale_context.FINEST, 4)
    assert counts.sum() == 6
    assert counts[1, 0].tolist() == [1, 2, 0, 0]
    assert counts[0, 7].tolist() == [0, 0, 1, 0]
    # Signs of 4 indices; 0 and 1 of the first quantizer one bit each; 1, 2 of 3 of the second.
    assert coded_bits(counts) == pytest.approx(4 + 2 + 3 * np.log2(3) - 2)
    assert (2 * found.shortfall[:, :2]).tolist() == [[-0.5, 0.5], [0.125, 0.0]]


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
        return indices, census(indices.numpy(), quantizers, context.numpy(), scaled.numpy()).counts[:, :, :21]

    _, counts = encoded(trellis_codes.laplace_costs(THRIFT, 20))
    indices, counts = encoded(counted_costs(THRIFT, counts))
    error = float((kernels.trellis_values(indices, states) - scaled).square().mean()) / 4 * step**2
    bits = coded_bits(counts) / scaled.numel()
    assert 1.5 < bits < 2.5
    assert bits - rate_bound(source, error) < gap
