"""Fixed-rate trellis codes: what they cost and reach, against theory, and how their curve and scales are found."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.formats import Importance, parse
from octavo.formats.elements.trellis import KNOTS, Trellis, parse_trellis
from octavo.measure.rate_distortion import distortion_bound, relative_error
from octavo.measure.sources import Laplace, Normal, Source, StudentT

KNOT_PLACES = torch.linspace(-4, 4, KNOTS)


def gap(source: Source, text: str, generator: torch.Generator, shape: tuple[int, int] = (512, 256)) -> float:
    """Bits by which a code on Shannon's bound would be shorter; never below zero but for the luck of the sample."""
    weights = source.sample(shape[0] * shape[1], generator).view(shape)
    quantized = parse(text).quantize(weights)
    error = relative_error(weights, quantized.dequantize())
    return 0.5 * math.log2(error / distortion_bound(source, quantized.bits_per_weight))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([(256, 1), (256, 3), (1024, 5)]),
    st.sampled_from(["channel rms:u8", "tensor rms:fp32", "b8 absmax:s8"]),
)
def test_every_bit_is_counted(rows: int, columns: int, trellis: tuple[int, int], scaling: str) -> None:
    format = parse(f"trellis(states={trellis[0]})@{trellis[1]} {scaling}")
    weights = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
    streams = 8 * columns * math.ceil(rows * trellis[1] / 8)
    scales = {"channel rms:u8": 8 * rows + 64, "tensor rms:fp32": 32, "b8 absmax:s8": 8 * rows * -(-columns // 8) + 64}
    expected = streams + scales[scaling] + 8 * columns + 64 + 32 * KNOTS
    assert format.stored_bits((rows, columns)) == expected == format.quantize(weights).stored_bits


@pytest.mark.parametrize(
    ("bits", "few", "many"), [(1, 0.16, 0.125), (2, 0.21, 0.145), (3, 0.245, 0.165), (4, 0.3, 0.185)]
)
def test_normal_weights_come_near_the_bound(bits: int, few: float, many: float, generator: torch.Generator) -> None:
    """Scales of 512 rows and 256 columns and the curve are 0.058 bits of it."""
    scaled = f"@{bits} channel rms:u8"
    coarse = gap(Normal(), f"trellis(states=256){scaled}", generator)
    fine = gap(Normal(), f"trellis(states=4096){scaled}", generator)
    assert 0.058 < fine < many < coarse < few


@pytest.mark.parametrize("source", [Laplace.unit_rms(), StudentT.unit_rms(5)], ids=["laplace", "t"])
def test_the_curve_follows_heavy_tails(source: Source, generator: torch.Generator) -> None:
    for bits in (1, 2, 3):
        text = f"trellis(states=1024)@{bits} tensor rms:fp32"
        # Much less than what is lost by the best scalar quantizers of as many values: 0.2, 0.5 and 0.8 bits.
        assert 0 < gap(source, text, generator) < (0.24, 0.29, 0.36)[bits - 1]


def test_the_curve_of_normal_weights_is_a_line(generator: torch.Generator) -> None:
    weights = torch.randn(256, 64, generator=generator)
    plain = Trellis(256, 2).fit(weights, torch.ones_like(weights))
    slope = float(plain[KNOTS // 2 + 2] - plain[KNOTS // 2 - 2]) / 2
    assert slope == pytest.approx(1.05, abs=0.08)
    inner = slice(4, KNOTS - 4)
    torch.testing.assert_close(plain[inner], slope * KNOT_PLACES[inner], rtol=0, atol=0.08)


def test_the_table_has_the_curve_at_every_rank() -> None:
    table = Trellis(1024, 3).table(2 * KNOT_PLACES + 1)
    expected = 2 * torch.special.ndtri((torch.arange(1024).double() + 0.5) / 1024) + 1
    torch.testing.assert_close(table.sort().values, expected.float())


def test_mass_moves_the_curve_to_where_errors_cost_most(generator: torch.Generator) -> None:
    weights = torch.randn(256, 64, generator=generator)
    mass = torch.where(weights > 0.5, 100.0, 1.0)
    element = Trellis(256, 2)

    def cost(curve: Tensor) -> float:
        found = torch.from_numpy(element.table(curve).sort().values.numpy())
        return float(found.median())

    assert cost(element.fit(weights, mass)) > cost(element.fit(weights, torch.ones_like(mass))) + 0.3


@pytest.mark.parametrize("side", [0, 1], ids=["rows", "columns"])
def test_rows_and_columns_may_differ_by_orders_of_magnitude(side: int, generator: torch.Generator) -> None:
    weights = torch.randn(128, 96, generator=generator)
    size = (128, 1) if side == 0 else (1, 96)
    spread = torch.exp2(6 * torch.rand(size, generator=generator))
    format = parse("trellis(states=256)@3 channel rms:u8")
    for part in (weights * spread, weights):
        found = format.fake_quantize(part)
        # The last rows have fewer values to choose from.
        found, part = found[:-8], part[:-8]
        each = (found - part).square().mean(1 - side) / part.square().mean(1 - side)
        assert float(each.max()) < 2 * float(each.mean())
        assert 0.0156 < float(each.mean()) < 0.03


def test_the_scale_of_the_tensor_does_not_matter(generator: torch.Generator) -> None:
    weights = torch.randn(64, 48, generator=generator)
    for text in ("trellis(states=256)@2 channel rms:fp32", "trellis(states=256)@4 b16 absmax:bf16"):
        plain, moved = parse(text).quantize(weights), parse(text).quantize(weights * 2.0**-40)
        assert torch.equal(plain.parts["codes"], moved.parts["codes"])
        torch.testing.assert_close(moved.dequantize() * 2.0**40, plain.dequantize())


def test_columns_that_matter_get_the_wider_codes(generator: torch.Generator) -> None:
    weights = torch.randn(64, 96, generator=generator)
    column = torch.ones(96)
    column[40:60] = 100.0
    format = parse("columns(trellis(states=256)@4=20,trellis(states=256)@2) channel rms:u8")
    error = (format.fake_quantize(weights, Importance(torch.ones(64), column)) - weights).square().mean(0)
    assert float(error[40:60].max()) < float(torch.cat([error[:40], error[60:]]).min())


def test_zero_columns_and_rows_stay_zero(generator: torch.Generator) -> None:
    weights = torch.randn(40, 30, generator=generator)
    weights[:, 7] = 0
    weights[5] = 0
    for scaling in ("channel rms:u8", "channel rms:e8m0", "tensor rms:fp16"):
        found = parse(f"trellis(states=256)@3 {scaling}").fake_quantize(weights)
        assert not found[:, 7].any()
        assert found.isfinite().all()
        assert scaling == "tensor rms:fp16" or found[5].abs().max() < 1e-6


@pytest.mark.parametrize(
    "text",
    [
        "trellis(states=256)@3 channel rms:u8 ans",
        "trellis(states=256)@3 separable",
        "trellis(levels=11) channel rms:u8",
        "trellis channel rms:u8",
        "trellis(states=300)@3 channel rms:u8",
        "trellis(states=256)@5 channel rms:u8",
        "trellis(df=5)@3 channel rms:u8",
    ],
)
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        parse(text)


def test_the_number_of_states_has_a_default() -> None:
    assert str(parse_trellis({}, 8)) == "trellis(states=4096)@3"
