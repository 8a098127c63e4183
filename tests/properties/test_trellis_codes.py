"""Costs and statistics of trellis indices against sums by hand, and what a trellis saves on known sources."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from octavo import kernels
from octavo.formats.coding import scale_context
from octavo.formats.grid_census import Census, census_of
from octavo.formats.grid_codes import Grid, Indices, Steps
from octavo.formats.trellis_codes import (
    DEAREST,
    EXPONENTS,
    TRAINED,
    counted_bits,
    law_bits,
    mean_absolute,
    nearest_exponent,
    trained_costs,
)
from octavo.measure import sources
from octavo.measure.rate_distortion import rate_bound

WIDE = 8191


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


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_the_law_of_an_exponent_has_its_mean_magnitude(exponent: float) -> None:
    assert nearest_exponent(mean_absolute(exponent)) == exponent
    assert mean_absolute(1) == pytest.approx(1 / np.sqrt(2))
    assert mean_absolute(2) == pytest.approx(np.sqrt(2 / np.pi))
    assert nearest_exponent(0.0) == 1
    assert nearest_exponent(1.0) == 2


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_bits_are_those_of_a_law(exponent: float) -> None:
    chances = np.exp2(-law_bits(exponent, WIDE))
    chances[:, :, 1:] *= 2
    # What is dearer than any code is not counted with less.
    assert (chances.sum(2) > 1 - 1e-9).all()
    assert chances[:, :40].sum(2) == pytest.approx(np.ones((2, 40)), abs=2 * WIDE * 2.0**-DEAREST)


@pytest.mark.parametrize("law", [sources.Laplace.unit_rms(), sources.Normal.unit_rms()])
def test_bits_are_the_masses_of_the_cells(law: sources.Laplace | sources.Normal) -> None:
    context = 20
    scaled = type(law)(2 * scale_context.center()[context] * law.scale)
    bits = law_bits(1.0 if isinstance(law, sources.Laplace) else 2.0, 5)[:, context]
    edges = np.array([[1, 3, 5, 7, 9, 11], [0.5, 2, 4, 6, 8, 10]])
    for quantizer in (0, 1):
        masses = np.diff(scaled.cdf(edges[quantizer]))
        assert bits[quantizer, 1:] == pytest.approx(-np.log2(masses))
        assert bits[quantizer, 0] == pytest.approx(-np.log2(2 * scaled.cdf(edges[quantizer][:1]) - 1)[0])


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_costs_are_finite_and_grow_with_thrift(exponent: float) -> None:
    costs = trained_costs(8, 0.3, exponent, 300)
    assert costs.shape == (2, scale_context.FINEST, 301)
    assert costs.dtype == np.float32
    assert np.isfinite(costs).all()
    assert (costs >= 0).all()
    untrained = (0.3 * law_bits(exponent, 300)).astype(np.float32)
    assert np.array_equal(costs[:, TRAINED:], untrained[:, TRAINED:])
    assert np.array_equal(trained_costs.__wrapped__(8, 0.3, exponent, 300), costs)
    assert not trained_costs(8, 0.0, exponent, 300).any()


def test_counted_bits_follow_the_counts_and_fall_back_on_the_law() -> None:
    law = law_bits(1.0, 5)
    counts = np.zeros((2, scale_context.FINEST, 6), dtype=np.int64)
    assert counted_bits(counts, law)[:, 5] == pytest.approx(law[:, 5], rel=1e-3)
    counts[1, 3] = [4_000_000, 2_000_000, 1_000_000, 500_000, 500_000, 0]
    found = counted_bits(counts, law)
    assert np.isfinite(found).all()
    assert found[1, 3, :5] == pytest.approx(np.array([1, 3, 4, 5, 5]), abs=1e-3)


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


@pytest.mark.parametrize(
    ("name", "degrees", "gap_left", "saved"),
    [("normal", None, 0.08, 0.015), ("laplace", None, 0.075, 0.005), ("t", 5.0, 0.08, 0.015)],
)
def test_training_saves_bits_at_low_rates(
    name: str, degrees: float | None, gap_left: float, saved: float, generator: torch.Generator
) -> None:
    """At a bit and a half, 64 states; the scalar grid stays 0.25 bits away from the bound."""
    source = sources.source(name, degrees)
    step = 2.0 ** (source.entropy_bits - 1.45)
    samples = source.sample(1 << 17, generator).reshape(1024, -1)
    scaled = samples * (2 / step)
    number = int(scale_context.quarter_log2(np.array([1 / step]))[0]) + scale_context.FLOOR
    context = torch.full(scaled.shape, number, dtype=torch.uint8)

    def gap(cost: NDArray[np.float32]) -> float:
        indices = kernels.trellis_indices(scaled, context, torch.from_numpy(cost), 64)
        quantizers = kernels.trellis_quantizers(indices, 64).numpy()
        counts = census(indices.numpy(), quantizers, context.numpy(), scaled.numpy()).counts[:, :, :41]
        error = float((kernels.trellis_values(indices, 64) - scaled).square().mean()) / 4 * step**2
        bits = coded_bits(counts) / scaled.numel()
        assert 1.2 < bits < 1.9
        return bits - rate_bound(source, error)

    exponent = nearest_exponent(source.mean_absolute)
    before = gap((0.3 * law_bits(exponent, 40)).astype(np.float32))
    after = gap(trained_costs(64, 0.3, exponent, 40))
    assert after < gap_left
    assert after < before - saved
