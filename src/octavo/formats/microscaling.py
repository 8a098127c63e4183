"""MXFP4, MXFP6, MXFP8, MXINT8, MXINT4 and NVFP4: complete formats, defined bit for bit by their specifications.

These are written for hardware, and differ from codebooks in three ways. Codes are the elements' own bit patterns
(sign and magnitude for floats, two's complement for integers), packed as octavo.kernels.layout says, not ranks in a
sorted codebook. Elements round to the nearest, ties to an even significand, and saturate. Scales follow the exponent:

- MX (Open Compute Project, Microscaling Formats v1.0, section 6.3), blocks of 32: part "scales" is E8M0,
  X = 2^(floor(log2 absmax) - e), e being the exponent of the element's largest power of two; a block of zeros has the
  code 0. Rounding down lets values of up to almost twice the largest element saturate: that is the specification.
- NVFP4 (NVIDIA), blocks of 16, E2M1: part "scale" is one float32, t = absmax of the tensor / (448·6), part "scales" is
  E4M3, absmax of the block / 6 / t, within 2^-6 and 448; element w · ((1/t) / scales). A value is code · (t · scales).

Float elements agree with torchao's code for code; MXINT8 is in steps of 2^-6 and saturates at ±127/64. MXINT4, of
which the specification knows nothing, is the same with four bits: steps of 2^-2, saturating at ±7/4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float32, Int32, Shaped, UInt8
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.formats.elements.floating import Floating
from octavo.formats.scaling import Scaling, block_statistic, row_ranges
from octavo.formats.tensor import QuantizedTensor
from octavo.kernels import pack, unpack

if TYPE_CHECKING:
    from octavo.formats.format import Format

E8M0_BIAS = 127
"""What E8M0 stores more than the exponent that it means."""

_NVFP4_SMALLEST = 2.0**-6  # the scale's smallest normal number, below which torchao and cuBLAS do not go
_NATIVE = {(4, 3): torch.float8_e4m3fn, (5, 2): torch.float8_e5m2}


@dataclass(frozen=True)
class Microscaling:
    """A complete format: element, block, scale and rounding are all part of its name.

    Attributes:
        name: one of `MICROSCALING`.
        exponent, mantissa: bits of the element; an exponent of 0 is an integer.
        block: weights to a scale.
    """

    name: str
    exponent: int
    mantissa: int
    block: int = 32

    @property
    def levels(self) -> int:
        """Size of the alphabet of codes; with two zeros and, in 8-bit floats, infinities and NaN among them."""
        return 2 ** (1 + self.exponent + self.mantissa)

    @property
    def stored(self) -> bool:
        return False

    @property
    def data_driven(self) -> bool:
        return False

    @property
    def two_level(self) -> bool:
        """NVFP4, whose scales are relative to one of the tensor."""
        return self.block == 16

    @property
    def scaling(self) -> Scaling:
        return Scaling(f"b{self.block}", "absmax", "e4m3" if self.two_level else "e8m0")

    @property
    def largest(self) -> float:
        """The largest element."""
        return self._magnitudes()[-1]

    def span(self, statistic: str, block: int | None) -> float:
        """The power of two onto whose octave the block's maximum falls (NVFP4: the largest element)."""
        return self.largest if self.two_level else 2.0**self.top_exponent

    def codebook(self, statistic: str, block: int | None) -> Float[Tensor, " values"]:
        """All values, sorted; one fewer than `levels` or less, because codes repeat zero or are no number."""
        magnitudes = self._magnitudes()
        return torch.tensor([-value for value in magnitudes[:0:-1]] + list(magnitudes), dtype=torch.float32)

    def fit(
        self, values: Float[Tensor, " n"], weights: Float[Tensor, " n"] | None, statistic: str, block: int | None
    ) -> Float[Tensor, " values"]:
        return self.codebook(statistic, block)

    def __str__(self) -> str:
        return self.name

    def _magnitudes(self) -> tuple[float, ...]:
        if not self.exponent:
            return tuple(step * 2.0 ** (1 - self.mantissa) for step in range(2**self.mantissa))
        values = Floating(self.exponent, self.mantissa).values()
        return values[len(values) // 2 :]

    @property
    def top_exponent(self) -> int:
        """Exponent of the element's largest power of two."""
        return math.frexp(self.largest)[1] - 1

    def _thresholds(self) -> Tensor:
        """Magnitudes above which the next code starts: midpoints, just below them where the tie goes up to even."""
        values = torch.tensor(self._magnitudes(), dtype=torch.float32)
        midpoints = (values[1:] + values[:-1]) / 2
        odd = torch.arange(len(midpoints)) % 2 == 1
        return torch.where(odd, torch.nextafter(midpoints, torch.zeros(())), midpoints)

    def encode_elements(self, scaled: Float32[Tensor, "rows columns"]) -> UInt8[Tensor, "rows columns"]:
        """Codes of weights that are in units of their scales already: nearest, ties to even, saturating."""
        if not self.exponent:
            largest = 2**self.mantissa - 1
            codes = (scaled * 2.0 ** (self.mantissa - 1)).round().clamp(-largest, largest)
            return codes.to(torch.int8).view(torch.uint8) & (self.levels - 1)
        native = _NATIVE.get((self.exponent, self.mantissa))
        if native is not None:
            return scaled.clamp(-self.largest, self.largest).to(native).view(torch.uint8)
        codes = torch.bucketize(scaled.abs(), self._thresholds().to(scaled.device), out_int32=True)
        return (codes + torch.signbit(scaled) * (self.levels // 2)).to(torch.uint8)

    def decode_elements(self, codes: UInt8[Tensor, "rows columns"]) -> Float32[Tensor, "rows columns"]:
        """The values of codes, in units of their scales."""
        if not self.exponent:
            # The code's sign bit goes to the top of the byte and comes back down as a sign.
            above = 7 - self.mantissa
            return ((codes << above).view(torch.int8) >> above).float() * 2.0 ** (1 - self.mantissa)
        native = _NATIVE.get((self.exponent, self.mantissa))
        if native is not None:
            return codes.view(native).float()
        magnitudes = torch.tensor(self._magnitudes(), dtype=torch.float32, device=codes.device)
        return torch.cat([magnitudes, -magnitudes])[codes.int()]

    def encode_scales(self, absmax: Float32[Tensor, "rows blocks"], top: Float32[Tensor, ""]) -> dict[str, Tensor]:
        """The parts "scales" and, for NVFP4, "scale".

        Args:
            absmax: largest magnitude of each block.
            top: largest magnitude of the tensor.
        """
        if not self.two_level:
            return {"scales": self._exponents(absmax).to(torch.uint8).view(torch.float8_e8m0fnu)}
        # A tensor of zeros has no scale; any will do, and 1 makes no NaN.
        level = torch.where(top > 0, top / (448.0 * self.largest), 1.0).reshape(1)
        level = level.clamp_min(torch.finfo(torch.float32).smallest_normal)
        scales = (absmax / self.largest / level).clamp(_NVFP4_SMALLEST, 448.0)
        return {"scales": scales.to(torch.float8_e4m3fn), "scale": level}

    def scale_values(
        self, absmax: Float32[Tensor, "rows blocks"], top: Float32[Tensor, ""]
    ) -> tuple[Float32[Tensor, "rows blocks"], Float32[Tensor, " one"] | None]:
        """The numbers behind the parts "scales" and "scale" that `encode_scales` would give."""
        if self.two_level:
            parts = self.encode_scales(absmax, top)
            return parts["scales"].float(), parts["scale"]
        # By hand: torch.compile knows no E8M0. The code 0 is 2^-127, a subnormal float32.
        return (self._exponents(absmax) << 23).clamp_min(1 << 22).view(torch.float32), None

    def _exponents(self, absmax: Float32[Tensor, "rows blocks"]) -> Int32[Tensor, "rows blocks"]:
        """The codes of MX's scales."""
        power = (absmax.contiguous().view(torch.int32) >> 23) - E8M0_BIAS - self.top_exponent
        return power.clamp(-E8M0_BIAS, E8M0_BIAS) + E8M0_BIAS


def nvfp4_factor(level: Float32[Tensor, " one"], scales: Float32[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """What NVFP4's weights are multiplied with before they are rounded; finite for the smallest of tensors too."""
    return ((1.0 / level) / scales).clamp_max(torch.finfo(torch.float32).max)


def _spread(scales: Shaped[Tensor, "rows blocks"], run: int, columns: int) -> Tensor:
    return scales.repeat_interleave(run, dim=1)[:, :columns]


@dataclass(frozen=True, eq=False)
class MicroscalingRounder:
    """A complete format with its scales (see octavo.formats.rounding.Rounder).

    Attributes:
        format: the format.
        element: its element.
        parts: "scales" and, for NVFP4, "scale".
    """

    format: Format
    element: Microscaling
    parts: Mapping[str, Tensor]

    @property
    def together(self) -> int:
        return 1

    def round(self, columns: slice, values: Float32[Tensor, "rows run"]) -> Float32[Tensor, "rows run"]:
        block = torch.arange(columns.start, columns.stop) // self.element.block
        scales = self.parts["scales"].float()[:, block]
        return self.element.decode_elements(self._codes(scales, values)) * self._unit(scales)

    def quantize(self, weights: Float[Tensor, "..."]) -> QuantizedTensor:
        matrix = weights.detach().reshape(-1, weights.shape[-1]).contiguous()
        rows, columns = matrix.shape
        codes = torch.empty(rows, columns, dtype=torch.uint8, device=matrix.device)
        run = self.element.scaling.run(columns)
        for part in row_ranges(rows, columns):
            scales = _spread(self.parts["scales"][part].float(), run, columns)
            codes[part] = self._codes(scales, matrix[part].float())
        parts = {"codes": pack(codes.flatten(), self.element.levels), **self.parts}
        return QuantizedTensor(self.format, tuple(weights.shape), parts)

    def _codes(self, scales: Tensor, values: Tensor) -> UInt8[Tensor, "rows run"]:
        if self.element.two_level:
            scaled = values * nvfp4_factor(self.parts["scale"], scales)
            return self.element.encode_elements(scaled.clamp(-self.element.largest, self.element.largest))
        # Below 2^-126 the specification's scale is no normal float32; the weights there are not either.
        return self.element.encode_elements(values / scales.clamp_min(2.0**-126))

    def _unit(self, scales: Tensor) -> Tensor:
        return self.parts["scale"] * scales if self.element.two_level else scales


def settle(format: Format, matrix: Float[Tensor, "rows columns"]) -> MicroscalingRounder:
    """The scales of a matrix.

    Raises:
        FormatError: a weight is NaN or infinite.
    """
    element = format.element
    assert isinstance(element, Microscaling)
    absmax = block_statistic(matrix, element.scaling)
    return MicroscalingRounder(format, element, element.encode_scales(absmax, absmax.max()))


def dequantize_matrix(element: Microscaling, quantized: QuantizedTensor) -> Float32[Tensor, "rows columns"]:
    """The values of a matrix, float32."""
    columns = quantized.shape[-1]
    rows = quantized.numel // columns
    parts = quantized.parts
    codes = unpack(parts["codes"], element.levels, quantized.numel).view(rows, columns)
    values = torch.empty(rows, columns, dtype=torch.float32, device=codes.device)
    for part in row_ranges(rows, columns):
        scales = parts["scales"][part].float()
        if element.two_level:
            scales = parts["scale"] * scales
        values[part] = element.decode_elements(codes[part]) * _spread(scales, element.scaling.run(columns), columns)
    return values


MICROSCALING = {
    element.name: element
    for element in (
        Microscaling("mxfp4", 2, 1),
        Microscaling("mxfp6-e2m3", 2, 3),
        Microscaling("mxfp6-e3m2", 3, 2),
        Microscaling("mxfp8-e4m3", 4, 3),
        Microscaling("mxfp8-e5m2", 5, 2),
        Microscaling("mxint8", 0, 7),
        Microscaling("mxint4", 0, 3),
        Microscaling("nvfp4", 2, 1, block=16),
    )
}
"""The complete formats by name."""


def parse_microscaling(token: str) -> Microscaling:
    """The complete format a token names; it takes neither size nor arguments.

    Raises:
        FormatError: there is none of that name.
    """
    if token not in MICROSCALING:
        raise FormatError(f"{token!r} is no complete format", f"write one of {', '.join(MICROSCALING)}")
    return MICROSCALING[token]
