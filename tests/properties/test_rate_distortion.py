"""Sources and Shannon's bound: the laws are what they claim, and no code beats the bound."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.formats.elements import expected_error, parse_element
from octavo.measure.rate_distortion import (
    decibels,
    distortion_bound,
    entropy_power,
    measure_format,
    rate_bound,
    relative_error,
    sqnr_db,
)
from octavo.measure.scalar import best_multiplier, squared_error
from octavo.measure.sources import Laplace, Normal, Source, StudentT, source

SOURCES = (
    Normal.unit_rms(),
    Laplace.unit_rms(),
    StudentT.unit_rms(5.0),
    StudentT.unit_rms(3.0),
    StudentT.unit_rms(40.0),
)
TOKENS = ("cbrt-normal", "cbrt-laplace", "cbrt-t(df=5)", "cbrt-t(df=3)", "cbrt-t(df=40)")

sources = st.sampled_from(SOURCES)
points = st.floats(-8, 8)


def integral(function, low: float, high: float) -> float:
    nodes, weights = np.polynomial.legendre.leggauss(200)
    x = low + (nodes + 1) / 2 * (high - low)
    return float(weights @ function(x)) * (high - low) / 2


@given(sources, points, points)
def test_cdf_and_partial_mean_are_integrals_of_the_density(law: Source, low: float, high: float) -> None:
    low, high = sorted((low, high))
    pieces = [low, *([0.0] if low < 0 < high else []), high]
    ends = np.array([low, high])
    mass = sum(integral(law.pdf, a, b) for a, b in itertools.pairwise(pieces))
    mean = sum(integral(lambda x: x * law.pdf(x), a, b) for a, b in itertools.pairwise(pieces))
    assert np.diff(law.cdf(ends))[0] == pytest.approx(mass, abs=1e-9)
    assert np.diff(law.partial_mean(ends))[0] == pytest.approx(mean, abs=1e-9)


@given(sources, st.floats(1e-9, 1 - 1e-9))
def test_quantiles_invert_the_cdf(law: Source, probability: float) -> None:
    assert float(law.cdf(law.ppf(np.array(probability)))) == pytest.approx(probability, rel=1e-7)


@pytest.mark.parametrize("law", SOURCES)
def test_infinite_ends(law: Source) -> None:
    ends = np.array([-np.inf, np.inf])
    assert law.cdf(ends).tolist() == [0, 1]
    np.testing.assert_allclose(law.partial_mean(ends), 0, atol=1e-12)


@pytest.mark.parametrize("law", SOURCES)
def test_samples_follow_their_law(law: Source) -> None:
    samples = law.sample(2**17, torch.Generator().manual_seed(3))
    again = law.sample(2**17, torch.Generator().manual_seed(3))
    torch.testing.assert_close(samples, again, rtol=0, atol=0)
    assert samples.dtype == torch.float32
    # Kolmogorov-Smirnov: the 99.9 % point is 1.95/sqrt(n).
    ranks = np.sort(law.cdf(samples.double().numpy()))
    distance = np.abs(ranks - (np.arange(len(ranks)) + 0.5) / len(ranks)).max()
    assert distance < 1.95 / math.sqrt(len(ranks))
    assert float(samples.abs().mean()) == pytest.approx(law.mean_absolute, rel=0.01)
    assert law.rms == pytest.approx(1)


@pytest.mark.parametrize("law", SOURCES[:3])
def test_entropies(law: Source) -> None:
    pieces = [0.0, 1.0, 3.0, 10.0, 40.0, 300.0]
    found = 2 * sum(
        integral(lambda x: -law.pdf(x) * np.log2(np.maximum(law.pdf(x), 1e-300)), a, b)
        for a, b in itertools.pairwise(pieces)
    )
    assert law.entropy_bits == pytest.approx(found, abs=1e-5)


@pytest.mark.parametrize(
    ("law", "fixed_length", "entropy_coded", "gap"),
    [
        (Normal.unit_rms(), 1.6495, 1.1930, 0.467),
        (Laplace.unit_rms(), 2.1213, 1.1097, 0.935),
        (StudentT.unit_rms(7.0), 2.1848, 1.1685, 0.903),
        (StudentT.unit_rms(5.0), 2.5651, 1.1384, 1.172),
    ],
)
def test_high_rate_constants(law: Source, fixed_length: float, entropy_coded: float, gap: float) -> None:
    pieces = [0.0, 1.0, 4.0, 20.0, 100.0, 1e3, 1e4, 1e6, 1e9]
    cube_root = 2 * sum(integral(lambda x: law.pdf(x) ** (1 / 3), a, b) for a, b in itertools.pairwise(pieces))
    assert math.sqrt(cube_root**3 / 12) == pytest.approx(fixed_length, abs=6e-4)
    assert 2**law.entropy_bits / math.sqrt(12) == pytest.approx(entropy_coded, abs=6e-5)
    assert math.log2(fixed_length / entropy_coded) == pytest.approx(gap, abs=6e-4)
    # A uniform grid with an ideal entropy code is 1.53 dB, a quarter of a bit, above Shannon's bound.
    assert (entropy_coded**2) / distortion_bound(law, 0) == pytest.approx(math.pi * math.e / 6, rel=1e-3)


def test_the_normal_bound_is_its_rate_distortion_function() -> None:
    for bits in range(9):
        assert distortion_bound(Normal.unit_rms(), bits) == pytest.approx(4.0**-bits)
        assert distortion_bound(Normal(7.0), bits) == pytest.approx(4.0**-bits)


@pytest.mark.parametrize("law", SOURCES)
def test_entropy_power_is_at_most_the_variance(law: Source) -> None:
    assert entropy_power(law) <= 1 + 1e-12


@given(sources, st.floats(0, 8))
def test_rate_and_distortion_bounds_are_inverse(law: Source, bits: float) -> None:
    assert rate_bound(law, distortion_bound(law, bits)) == pytest.approx(bits, abs=1e-9)
    assert rate_bound(law, 2.0) == 0


@given(st.sampled_from(list(zip(TOKENS, SOURCES, strict=True))), st.integers(2, 256))
def test_no_scalar_quantizer_beats_the_bound(case: tuple[str, Source], levels: int) -> None:
    token, law = case
    element = dataclasses.replace(parse_element(f"{token}@1"), levels=levels)
    error = expected_error(element, "rms", None, law)
    assert error is not None
    assert error > distortion_bound(law, math.log2(levels))


def blahut_arimoto(law: Source, slope: float, reach: float) -> tuple[float, float]:
    """Rate and relative distortion of one point of a source's rate-distortion function, on a grid."""
    outer = np.geomspace(6, reach, 40)[1:] if reach > 6 else np.zeros(0)
    grid = np.concatenate([-outer[::-1], np.linspace(-6, 6, 301), outer])
    edges = np.concatenate([[-np.inf], (grid[1:] + grid[:-1]) / 2, [np.inf]])
    mass = np.diff(law.cdf(edges))
    distance = (grid[:, None] - grid) ** 2
    kernel = np.exp(-slope * distance)
    output = np.full(len(grid), 1 / len(grid))
    for _ in range(400):
        output *= kernel.T @ (mass / (kernel @ output))
    joint = mass[:, None] * kernel * output / (kernel @ output)[:, None]
    # log2 of conditional over output mass is -slope·d/ln2 - log2(kernel @ output).
    rate = -(slope * float((joint * distance).sum()) + float(mass @ np.log(kernel @ output))) / math.log(2)
    return rate, float((joint * distance).sum()) / float(mass @ grid**2)


@pytest.mark.parametrize(("law", "reach"), [(SOURCES[0], 6), (SOURCES[1], 14), (SOURCES[2], 40)])
@pytest.mark.parametrize("slope", [2.4, 6.0])
def test_the_bound_is_tight_from_one_bit_up(law: Source, reach: float, slope: float) -> None:
    """The rate-distortion function, computed numerically, lies above the bound by less than half a percent."""
    rate, distortion = blahut_arimoto(law, slope, reach)
    assert rate > 1
    assert 1 - 2e-4 < distortion / distortion_bound(law, rate) < 1.005


@pytest.mark.parametrize("law", SOURCES[:3])
def test_the_best_multiplier_is_a_minimum(law: Source) -> None:
    table = np.arange(-8.0, 8.0)
    best = best_multiplier(table, law)
    errors = [squared_error(table * best * factor, law) for factor in (0.98, 1.0, 1.02)]
    assert errors[1] == min(errors)


@dataclass(frozen=True)
class Rounded:
    """The result of `Rounding`."""

    values: Tensor
    bits_per_weight: float

    def dequantize(self) -> Tensor:
        return self.values


@dataclass(frozen=True)
class Rounding:
    """Nearest centroid of an element, tensor-wide RMS: the least a format can be."""

    token: str

    def quantize(self, w: Tensor) -> Rounded:
        element = parse_element(self.token)
        centroids = element.codebook("rms", None)
        scale = w.square().mean().sqrt() / element.span("rms", None)
        codes = torch.bucketize(w / scale, (centroids[1:] + centroids[:-1]) / 2)
        return Rounded(centroids[codes] * scale, math.log2(element.levels))


@pytest.mark.parametrize("token", ["cbrt-normal@4", "nf4", "int@4", "lloyd-laplace@3", "e2m1"])
@pytest.mark.parametrize("law", SOURCES[:3])
def test_measured_error_is_the_expected_one(token: str, law: Source, generator: torch.Generator) -> None:
    expected = expected_error(parse_element(token), "rms", None, law)
    found = measure_format(Rounding(token), law, 2**18, generator, expected)
    assert found.expected_sqnr_db is not None
    assert found.sqnr_db == pytest.approx(found.expected_sqnr_db, abs=0.25)
    assert found.gap_db == pytest.approx(found.bound_db - found.sqnr_db)
    assert found.gap_db == pytest.approx(20 * math.log10(2) * found.gap_bits)
    assert found.gap_bits > 0


def test_expected_error_knows_what_it_does_not_know() -> None:
    law = Normal.unit_rms()
    cases = {"lloyd@3": ("rms", None), "int@4": ("search", 32), "nf4": ("rms", 64), "e2m1": ("absmax", None)}
    for token, (statistic, block) in cases.items():
        assert expected_error(parse_element(token), statistic, block, law) is None
    absmean = expected_error(parse_element("cbrt-normal@4"), "absmean", None, law)
    assert absmean == pytest.approx(expected_error(parse_element("cbrt-normal@4"), "rms", None, law))


def test_decibels() -> None:
    assert decibels(0.01) == pytest.approx(20)
    assert decibels(0) == math.inf
    original = torch.tensor([3.0, 4.0])
    assert sqnr_db(original, original * 0.9) == pytest.approx(20, abs=1e-4)
    with pytest.raises(FormatError, match="all-zero"):
        relative_error(torch.zeros(3), torch.ones(3))


@pytest.mark.parametrize(("name", "df"), [("cauchy", None), ("t", None), ("normal", 5.0), ("t", 2.0)])
def test_unknown_sources_say_so(name: str, df: float | None) -> None:
    with pytest.raises(FormatError):
        source(name, df)
