"""The checkable statements of "Optimal Formats for Weight Quantisation" (arXiv 2505.12988), at toy scale."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from octavo.formats import Format
from octavo.measure.rate_distortion import distortion_bound, relative_error
from octavo.measure.sources import Source, source

NORMAL, STUDENT = source("normal"), source("t", 5.0)


@pytest.fixture(scope="module")
def weights() -> dict[Source, Tensor]:
    generator = torch.Generator().manual_seed(11)
    return {law: law.sample(2**19, generator).reshape(512, 1024) for law in (NORMAL, STUDENT)}


def error(text: str, w: Tensor) -> tuple[float, float]:
    """Stored bits per weight, and R."""
    quantized = Format.parse(text).quantize(w)
    return quantized.bits_per_weight, math.sqrt(relative_error(w, quantized.dequantize()))


@pytest.mark.parametrize(
    ("law", "name", "expected"),
    [
        (
            NORMAL,
            "normal",
            {"tensor rms:fp32": 1.561, "tensor rms:fp32 outliers=0.001": 1.539, "b128 absmax:bf16": 1.640},
        ),
        (
            STUDENT,
            "t(df=5)",
            {"tensor rms:fp32": 2.300, "tensor rms:fp32 outliers=0.001": 2.151, "b128 absmax:bf16": 1.936},
        ),
    ],
)
def test_efficiency_near_four_bits(weights, law: Source, name: str, expected: dict[str, float]) -> None:
    """R·2^b of tensor RMS, outliers and blocks; block scaling hurts normal data and helps heavy tails."""
    for scaling, constant in expected.items():
        bits, found = error(f"cbrt-{name}@4 {scaling}", weights[law])
        assert found * 2**bits == pytest.approx(constant, rel=0.03), scaling


@pytest.mark.parametrize(("law", "constant"), [(NORMAL, 1.197), (STUDENT, 1.143)])
def test_entropy_coded_uniform_grids_are_near_optimal(weights, law: Source, constant: float) -> None:
    bits, found = error("grid@4 tensor rms:fp32 ans", weights[law])
    assert bits == pytest.approx(4, abs=0.05)
    assert found * 2**bits == pytest.approx(constant, rel=0.02)
    assert found**2 > distortion_bound(law, bits)


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        (
            NORMAL,
            {
                "cbrt-normal@4 b64 absmax:bf16": 0.0891,
                "cbrt-normal(variant=asymmetric)@4 b64 absmax:bf16": 0.0897,
                "cbrt-normal@4 b64 signmax:bf16": 0.0876,
                "nf4 b64 absmax:bf16": 0.0920,
                "int(levels=15) b64 absmax:bf16": 0.1076,
                "e2m1 b64 absmax:bf16": 0.1057,
            },
        ),
        (
            STUDENT,
            {
                "cbrt-t(df=5)@4 b64 absmax:bf16": 0.1017,
                "cbrt-t(df=5,variant=asymmetric)@4 b64 absmax:bf16": 0.1025,
                "cbrt-t(df=5)@4 b64 signmax:bf16": 0.1009,
                "nf4 b64 absmax:bf16": 0.1047,
                "int(levels=15) b64 absmax:bf16": 0.1459,
                "e2m1 b64 absmax:bf16": 0.1124,
            },
        ),
    ],
)
def test_four_bit_blocks(weights, law: Source, expected: dict[str, float]) -> None:
    for text, found in expected.items():
        assert error(text, weights[law])[1] == pytest.approx(found, rel=0.015), text


def test_the_cube_root_beats_equal_occupancy(weights) -> None:
    """alpha = 1, the idea of NF4, wastes its outer centroids."""
    for law, name in ((NORMAL, "cbrt-normal({})"), (STUDENT, "cbrt-t(df=5,{})")):
        errors = [
            error(f"{name.format(f'alpha={alpha}')}@4 b64 absmax:bf16", weights[law])[1] for alpha in ("1/3", "1", "0")
        ]
        assert errors[0] == min(errors)


def test_students_degrees_of_freedom_are_worth_fitting(weights) -> None:
    for law in (NORMAL, STUDENT):
        _, fitted = error("cbrt-t(df=fit)@4 b64 absmax:bf16", weights[law])
        _, given = error("cbrt-t(df=5)@4 b64 absmax:bf16", weights[law])
        assert fitted <= given * 1.003


@pytest.mark.parametrize("bits", [3, 4, 5])
def test_more_effort_never_costs_accuracy(weights, bits: int) -> None:
    """A signed maximum beats an unsigned one, a searched scale beats both, and data-driven centroids come last."""
    tail = "b64 {}:bf16"
    signed = error(f"cbrt-t(df=5)@{bits} {tail.format('signmax')}", weights[STUDENT])[1]
    unsigned = error(f"cbrt-t(df=5)@{bits} {tail.format('absmax')}", weights[STUDENT])[1]
    searched = error(f"cbrt-t(df=5)@{bits} {tail.format('search')}", weights[STUDENT])[1]
    fitted = error(f"lloyd@{bits} {tail.format('search')}", weights[STUDENT])[1]
    assert fitted < searched < signed < unsigned
