"""How far a format is from the best that any code of the same rate could do.

The bound is Shannon's lower bound on the distortion of a memoryless source under squared error,

    D(R) >= N·2^(-2R),    N = 2^(2h) / (2πe)    (h: differential entropy in bits, N: the entropy power),

which holds at every rate and for every code, blocks of any length included. For the normal source it is the
rate-distortion function itself. For Laplace and Student-t the true function lies above it, from one bit up by less than
half a percent (0.02 dB; the tests compare with the Blahut-Arimoto algorithm), so a gap is overstated by that at most.

Source: Cover and Thomas, Elements of Information Theory, 2nd ed., chapter 10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.measure.sources import Source

ROW = 1024
"""Length of the rows that measured samples are laid out in: a multiple of every customary block size."""


class Quantized(Protocol):
    """What a quantized tensor tells the measurement."""

    @property
    def bits_per_weight(self) -> float: ...

    def dequantize(self) -> Tensor: ...


class Quantizer(Protocol):
    """Anything that quantizes a matrix and counts its bits: every `Format`."""

    def quantize(self, weights: Tensor, /) -> Quantized: ...


@dataclass(frozen=True)
class FormatMeasurement:
    """One format on one source.

    Attributes:
        bits: bits per weight, everything stored counted.
        sqnr_db: measured signal-to-quantization-noise ratio.
        expected_sqnr_db: the same from theory, None where there is no closed form.
        bound_db: the highest SQNR that Shannon's bound allows at these bits.
        gap_db: bound_db - sqnr_db.
        gap_bits: bits that a code on the bound would save at the same error.
    """

    bits: float
    sqnr_db: float
    expected_sqnr_db: float | None
    bound_db: float
    gap_db: float
    gap_bits: float


def decibels(relative_error: float) -> float:
    """SQNR of a mean squared error relative to the mean square; infinite for no error."""
    return math.inf if relative_error == 0 else -10 * math.log10(relative_error)


def relative_error(original: Float[Tensor, "*shape"], approximation: Float[Tensor, "*shape"]) -> float:
    """Mean squared error over mean square, summed in float64: R² in the notation R = rms(error)/rms(weights).

    Raises:
        FormatError: the original is all zero.
    """
    signal = float(original.double().square().sum())
    if signal == 0:
        raise FormatError("the error relative to an all-zero tensor has no meaning", "leave the tensor out")
    return float((original.double() - approximation.double()).square().sum()) / signal


def sqnr_db(original: Float[Tensor, "*shape"], approximation: Float[Tensor, "*shape"]) -> float:
    """Signal-to-quantization-noise ratio in dB."""
    return decibels(relative_error(original, approximation))


def entropy_power(source: Source) -> float:
    """Variance of the normal law with the source's differential entropy; at most the source's own."""
    return 2 ** (2 * source.entropy_bits) / (2 * math.pi * math.e)


def distortion_bound(source: Source, bits: float) -> float:
    """Shannon's lower bound on the mean squared error of any code of `bits` per sample, relative to the mean square."""
    return entropy_power(source) / source.rms**2 * 2 ** (-2 * bits)


def rate_bound(source: Source, relative_error: float) -> float:
    """Shannon's lower bound on the bits per sample of any code of that relative error."""
    return max(0.0, 0.5 * math.log2(distortion_bound(source, 0) / relative_error))


def measure_format(
    format: Quantizer,
    source: Source,
    count: int,
    generator: torch.Generator,
    expected_error: float | None = None,
) -> FormatMeasurement:
    """Quantize `count` samples of a source (rounded up to whole rows of 1024) and compare with Shannon's bound.

    Args:
        format: the format to measure.
        source: where the samples come from.
        count: how many samples.
        generator: the samples' randomness.
        expected_error: relative squared error that theory expects, if known.
    """
    rows = -(-count // ROW)
    samples = source.sample(rows * ROW, generator).reshape(rows, ROW)
    quantized = format.quantize(samples)
    error = relative_error(samples, quantized.dequantize())
    bound = distortion_bound(source, quantized.bits_per_weight)
    return FormatMeasurement(
        bits=quantized.bits_per_weight,
        sqnr_db=decibels(error),
        expected_sqnr_db=None if expected_error is None else decibels(expected_error),
        bound_db=decibels(bound),
        gap_db=decibels(bound) - decibels(error),
        gap_bits=0.5 * math.log2(error / bound) if error else -math.inf,
    )
