"""Water-filled and plain uniform grids behind the entropy coder, held to what theory and their own predictions say.

Loss is ½ Σ F δ², F the separable importance; see arXiv 2603.04956 and 2505.12988 section 4.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.base.errors import CheckpointError, FormatError
from octavo.formats import Importance, parse
from octavo.formats.entropy_coded import decoded, grid_of
from octavo.formats.grid_census import take_census
from octavo.formats.grid_codes import LARGEST, Grid
from octavo.formats.grid_resident import grown_bits
from octavo.formats.grid_stream import encode_grid, side_bits
from octavo.formats.tensor import QuantizedTensor

SEEDS = st.integers(0, 2**32 - 1)
SPREADS = st.floats(0, 2.5)
"""Standard deviation of the natural logarithm of row and column importance."""


def matrix(
    rows: int, columns: int, spread: float, seed: int = 0, tails: bool = False
) -> tuple[torch.Tensor, Importance]:
    """A matrix whose rows and columns have scales and importances of their own."""
    rng = np.random.default_rng(seed)
    values = rng.standard_t(4, (rows, columns)) if tails else rng.standard_normal((rows, columns))
    if tails:
        values *= np.exp(0.4 * rng.standard_normal((rows, 1)) + 0.4 * rng.standard_normal(columns))
    row, column = (np.exp(spread * rng.standard_normal(n)).astype(np.float32) for n in (rows, columns))
    return torch.from_numpy(0.02 * values.astype(np.float32)), Importance(
        torch.from_numpy(row), torch.from_numpy(column)
    )


def weighted_loss(weights: torch.Tensor, importance: Importance, quantized: QuantizedTensor) -> float:
    error = (quantized.dequantize() - weights).double().square()
    return 0.5 * float(importance.row.double() @ (error @ importance.column.double()))


def relative_error(weights: torch.Tensor, quantized: QuantizedTensor) -> float:
    return float(
        (quantized.dequantize() - weights).double().square().mean().sqrt() / weights.double().square().mean().sqrt()
    )


def context_entropy(values: np.ndarray, grid: Grid) -> float:
    """Bits of all indices under the best tables there could be, for the context width that the code uses."""
    census = take_census(values, grid)
    width, _, _ = census.best_tables()
    counts = census.counts.reshape(-1, width, census.counts.shape[-1]).sum(1).astype(float)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    signs = counts[:, 1:].sum()
    return float(signs - (counts * np.log2(share, where=share > 0, out=np.zeros_like(share))).sum())


@pytest.mark.parametrize("element", ["grid@4.0", "grid(states=8)@4.0"])
def test_stored_bits_are_within_a_hundredth_of_the_ideal(element: str) -> None:
    weights, importance = matrix(1536, 1024, 1.0, tails=True)
    grid, values = grid_of(parse(f"{element} separable ans"), weights, importance)
    stored = 8 * len(encode_grid(values, grid))
    ideal = context_entropy(values, grid)
    # Two quantizers have twice the tables.
    assert ideal < stored <= (1.01 if element == "grid@4.0" else 1.015) * ideal


@settings(max_examples=8)
@given(
    SEEDS,
    SPREADS,
    st.booleans(),
    st.sampled_from([(400, 250), (128, 1024), (1500, 70), (100_000, 1), (1, 100_003)]),
    st.sampled_from(["grid(step=0.006)", "grid(step=0.006,states=4)"]),
)
def test_predicted_bits_are_those_of_the_code(
    seed: int, spread: float, tails: bool, shape: tuple[int, int], element: str
) -> None:
    weights, importance = matrix(*shape, spread, seed, tails)
    grid, values = grid_of(parse(f"{element} separable ans"), weights, importance)
    predicted = take_census(values, grid).best_tables()[2] + side_bits(grid)
    stored = 8 * len(encode_grid(values, grid))
    assert stored <= predicted <= 1.005 * stored


@settings(max_examples=6)
@given(
    SEEDS,
    SPREADS,
    st.booleans(),
    st.floats(1.2, 6),
    st.sampled_from(["separable", "tensor rms:fp32", "channel rms:fp32"]),
)
def test_a_rate_is_met_from_below(seed: int, spread: float, tails: bool, rate: float, scaling: str) -> None:
    weights, importance = matrix(400, 500, spread, seed, tails)
    bits = parse(f"grid@{rate!r} {scaling} ans").quantize(weights, importance).bits_per_weight
    assert rate - 0.02 <= bits <= rate


def test_a_rate_that_the_side_information_exceeds_is_refused() -> None:
    weights, importance = matrix(8, 8, 1.0)
    with pytest.raises(FormatError, match=r"do not fit into 3\.0 bits"):
        parse("grid@3.0 separable ans").quantize(weights, importance)


def test_every_weight_costs_the_same_loss() -> None:
    weights, importance = matrix(1024, 1024, 0.5)
    quantized = parse("grid@4.0 separable ans").quantize(weights, importance)
    loss = (quantized.dequantize() - weights).double().square() * importance.matrix().double()
    whole = float(loss.mean())
    # Single steps are off by up to an eighth of an octave; over many rows or columns that evens out.
    for axis, factor in ((1, importance.row), (0, importance.column)):
        along = loss.mean(axis)
        for group in factor.argsort().chunk(4):
            assert float(along[group].mean()) == pytest.approx(whole, rel=0.05)
        assert float(along.max() / whole) < 1.35
        assert float(along.min() / whole) > 0.7


def test_a_bit_more_is_six_decibels_less() -> None:
    # Spread so little that no index reaches the end of its byte.
    weights, importance = matrix(512, 512, 0.3)
    points = []
    for rate in (4.0, 5.0):
        quantized = parse(f"grid@{rate} separable ans").quantize(weights, importance)
        points.append((quantized.bits_per_weight, 10 * np.log10(weighted_loss(weights, importance, quantized))))
    (bits, level), (more_bits, lower_level) = points
    assert (level - lower_level) / (more_bits - bits) == pytest.approx(6.02, rel=0.02)


def test_importance_that_is_all_alike_makes_a_plain_grid() -> None:
    weights, _ = matrix(400, 500, 0.0)
    alike = Importance(torch.full((400,), 4.0), torch.full((500,), 16.0))
    plain = parse("grid@3.0 tensor rms:fp32 ans").quantize(weights)
    for importance in (alike, None):
        separable = parse("grid@3.0 separable ans").quantize(weights, importance)
        assert separable.bits_per_weight == pytest.approx(plain.bits_per_weight, rel=0.003)
        assert relative_error(weights, separable) == pytest.approx(relative_error(weights, plain), rel=0.003)
        torch.testing.assert_close(separable.dequantize(), plain.dequantize(), rtol=0.02, atol=0.02)
        held = decoded(separable).parts
        assert len(held["row_step"].unique()) == len(held["column_step"].unique()) == 1


@settings(max_examples=8)
@given(SEEDS, SPREADS, st.booleans(), st.floats(1.5, 5))
def test_unequal_steps_lose_no_more_than_equal_ones(seed: int, spread: float, tails: bool, rate: float) -> None:
    weights, importance = matrix(300, 400, spread, seed, tails)
    unequal = parse(f"grid@{rate!r} separable ans").quantize(weights, importance)
    equal = parse(f"grid@{unequal.bits_per_weight!r} tensor rms:fp32 ans").quantize(weights)
    # Both rates are met to a hundredth of a bit or so, which is 1 % of the loss; where the importance is nearly flat,
    # rounding the steps to quarter octaves gains nothing and costs half a percent.
    tolerance = 4 ** max(0.0, equal.bits_per_weight - unequal.bits_per_weight) * 1.02
    assert weighted_loss(weights, importance, unequal) <= tolerance * weighted_loss(weights, importance, equal)


@settings(max_examples=10)
@given(SEEDS, st.integers(-20, 20), st.sampled_from(["grid@5.0 separable ans", "grid@5.0 tensor rms:fp32 ans"]))
def test_powers_of_two_pass_through(seed: int, octaves: int, text: str) -> None:
    weights, importance = matrix(64, 96, 1.0, seed)
    small, large = (parse(text).quantize(w, importance) for w in (weights, weights * 2.0**octaves))
    torch.testing.assert_close(large.dequantize(), small.dequantize() * 2.0**octaves, rtol=1e-5, atol=0)
    assert large.stored_bits == small.stored_bits


@settings(max_examples=20)
@given(SEEDS, SPREADS, st.integers(1, 40), st.integers(1, 300), st.floats(-14, 1), st.sampled_from(["", ",states=8"]))
def test_in_memory_every_column_is_as_wide_as_it_needs(
    seed: int, spread: float, rows: int, columns: int, octave: float, states: str
) -> None:
    weights, importance = matrix(rows, columns, spread, seed, tails=True)
    quantized = parse(f"grid(step={2**octave!r}{states}) separable ans").quantize(weights, importance)
    held = decoded(quantized)
    assert torch.equal(held.dequantize(), quantized.dequantize())
    assert sorted(held.parts["place"].tolist()) == list(range(columns))
    assert grown_bits(held.parts, 1.0) == held.stored_bits
    # Within a byte of padding a row and the codes apart, never more than the widest code everywhere.
    bits = 8 * sum(part.element_size() * part.numel() for name, part in held.parts.items() if "_" in name)
    assert bits <= 16 * rows * (columns + 1) + 8 * rows + 64 * columns + 80 * rows * columns


def test_the_widths_take_less_than_any_one_width() -> None:
    weights, importance = matrix(300, 96, 1.0, tails=True)
    held = decoded(parse("grid@3.0 separable ans").quantize(weights, importance))
    values = held.dequantize()
    sides = 8 * sum(held.parts[n].element_size() * held.parts[n].numel() for n in ("row_step", "column_step", "points"))
    widths = {name: part for name, part in held.parts.items() if name.startswith("codes_")}
    assert len(widths) > 2
    one_byte = 8 * values.numel()
    assert held.stored_bits - sides < 0.75 * one_byte


def test_few_large_codes_are_kept_apart_and_a_column_of_them_is_not() -> None:
    weights, _ = matrix(64, 32, 0.0)
    weights[3, 5] = 40 * weights.std()
    weights[:, 7] *= 40
    quantized = parse("grid(step=0.05) tensor rms:fp32 ans").quantize(weights)
    parts = decoded(quantized).parts
    assert (3, 5) in zip(parts["far_row"].tolist(), parts["far_column"].tolist(), strict=True)
    assert 7 not in parts["far_column"].tolist()
    assert int(parts["place"][7]) < 8
    assert torch.equal(decoded(quantized).dequantize(), quantized.dequantize())


def test_a_step_too_fine_for_a_table_is_coarsened_where_it_must() -> None:
    weights, importance = matrix(64, 64, 0.0)
    format = parse("grid(step=0.01) separable ans")
    plain = format.quantize(weights, importance)
    weights[:, 7] *= 1000
    coarse = format.quantize(weights, importance)
    others = torch.arange(64) != 7
    before, after = (decoded(quantized).parts["column_step"] for quantized in (plain, coarse))
    assert torch.equal(before[others], after[others])
    assert after[7] < before[7]
    # Nothing is clipped: no error exceeds a step.
    error, height = (coarse.dequantize() - weights).abs()[:, 7], weights[:, 7].abs().max()
    assert float(error.max() / height) < 1 / LARGEST


@pytest.mark.parametrize(("states", "gap"), [(1, 0.262), (4, 0.135), (8, 0.112), (64, 0.072)])
@pytest.mark.parametrize("rate", [2, 3, 4])
def test_normal_data_come_near_the_rate_distortion_bound(rate: int, states: int, gap: float) -> None:
    weights, _ = matrix(1024, 1024, 0.0)
    element = f"grid@{rate}" if states == 1 else f"grid(states={states})@{rate}"
    quantized = parse(f"{element} tensor rms:fp32 ans").quantize(weights)
    bits = np.log2(relative_error(weights, quantized)) + quantized.bits_per_weight
    # log2 √(πe/6) = 0.2546 from Shannon's bound is the best that any scalar quantizer reaches at high rate; tables and
    # scales of rows and columns take a few thousandths.
    assert (0.2546 if states == 1 else 0) < bits < gap


@pytest.mark.parametrize("version", [1, 2, 4])
@pytest.mark.parametrize("text", ["grid(step=0.01) separable ans", "int@4 b64 absmax:bf16 ans"])
def test_other_versions_are_refused(text: str, version: int) -> None:
    weights, _ = matrix(64, 64, 0.0)
    quantized = parse(text).quantize(weights)
    quantized.parts["coded"][0] = version
    with pytest.raises(CheckpointError, match=f"version {version}"):
        quantized.dequantize()


def test_rounding_for_the_rate_loses_less_than_rounding_to_nearest_at_the_same_rate() -> None:
    weights, importance = matrix(400, 500, 1.0, tails=True)
    grid, values = grid_of(parse("grid@2.0 separable ans"), weights, importance)
    thrifty = take_census(values, grid)
    nearest = replace(grid, thrift=0.0)
    plain = take_census(values, nearest)
    saved = (plain.best_tables()[2] - thrifty.best_tables()[2]) / values.size
    assert saved > 0
    # Dearer in error, but by less than the same saving costs on a coarser grid (6.02 dB a bit at most).
    assert plain.error < thrifty.error < plain.error * 4**saved
