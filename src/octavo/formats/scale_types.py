"""How a scale is stored: a dtype, a rounding direction, and for the narrow ones a second level for the whole tensor.

Single-level types hold the scale itself:

- `fp32`, `bf16`, `fp16`: the float. Magnitudes below the smallest normal number are raised to it (fp16: to the smallest
  subnormal, 2^-24, because weights do come close to its normal range), so that no scale is zero.
- `e8m0`: a power of two, 2^-126 to 2^127 (the code for 2^-127 is left out: as a float32 it is subnormal).

Two-level types hold codes relative to the part `scale`, float32:

- `e4m3`, `e5m2`: scale[0] times the float; scale[0] puts the tensor's largest scale at the dtype's largest value.
- `u8`: a logarithmic grid. Code 0 is 0; code k of 1 ... 255 is scale[0] · 2^(-(255 - k)·scale[1]). scale[0] is the
  tensor's largest scale and scale[1], in octaves, reaches its smallest or `REACH` octaves down, whichever is nearer.
- `s8`: the same with a sign in bit 7 and magnitudes 1 ... 127.

In two-level types a block of zeros has scale 0. In single-level ones it has the smallest scale, so that codebooks
without a zero reconstruct such a block as smallest scale times smallest centroid: at most 2^-126 (fp16: 2^-24).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Shaped
from torch import Tensor

from octavo.base.errors import FormatError

REACH = 16.0
"""Octaves between the largest and the smallest nonzero scale of a logarithmic grid, at most."""


@dataclass(frozen=True)
class ScaleType:
    """One way to store scales.

    Attributes:
        name: as in format strings.
        dtype: of the stored part "scales".
        signed: scales may be negative.
        second_level: numbers in the part "scale", 0 if there is none.
    """

    name: str
    dtype: torch.dtype
    signed: bool = True
    second_level: int = 0

    @property
    def bits(self) -> int:
        """Bits of one stored scale."""
        return 8 * self.dtype.itemsize

    @property
    def is_log_grid(self) -> bool:
        return self.dtype == torch.uint8

    def level(self, scales: Float32[Tensor, "rows blocks"]) -> Float32[Tensor, " second"] | None:
        """The second level that fits these scales; None for single-level types."""
        if not self.second_level:
            return None
        magnitudes = scales.abs()
        top = magnitudes.max()
        if not self.is_log_grid:
            return (top / torch.finfo(self.dtype).max).reshape(1)
        lowest = torch.where(magnitudes > 0, magnitudes, top).min().double()
        octaves = (top.double() / lowest).log2().clamp(0, REACH) if top > 0 else torch.zeros((), dtype=torch.float64)
        return torch.stack([top, (octaves / (self._codes - 1)).float().to(top.device)])

    def encode(
        self, scales: Float32[Tensor, "rows blocks"], level: Float32[Tensor, " second"] | None, up: bool
    ) -> Shaped[Tensor, "rows blocks"]:
        """Stored scales.

        Args:
            scales: as wanted.
            level: from `level`.
            up: round the magnitude up rather than to the nearest.

        Raises:
            FormatError: a scale is too large for the dtype.
        """
        if level is None and bool((scales.abs() > torch.finfo(self.dtype).max).any()):
            raise FormatError(f"a scale is too large for {self.name}", "store the scales as bf16 or fp32")
        return self.saturated(scales, level, up)

    def saturated(
        self, scales: Float32[Tensor, "rows blocks"], level: Float32[Tensor, " second"] | None, up: bool
    ) -> Shaped[Tensor, "rows blocks"]:
        """`encode`, but a scale that is too large becomes the largest: on a GPU, looking would make the host wait."""
        if self.is_log_grid:
            assert level is not None
            return self._encode_log(scales, level, up)
        if level is not None:
            scales = torch.where(level > 0, scales / level, 0.0)
        limit = torch.finfo(self.dtype).max
        scales = scales.clamp(-limit, limit)
        if self.name == "e8m0":
            return _encode_e8m0(scales, up)
        stored = scales.to(self.dtype)
        if up:
            stored = _away_from_zero(stored, scales)
        if level is None:
            smallest = torch.finfo(self.dtype).smallest_normal if self.name != "fp16" else 2.0**-24
            stored = torch.where(stored.abs() < smallest, torch.where(scales < 0, -smallest, smallest), stored)
        return stored.to(self.dtype)

    def decode(
        self, stored: Shaped[Tensor, "rows blocks"], level: Float32[Tensor, " second"] | None
    ) -> Float32[Tensor, "rows blocks"]:
        """The scales that are used, both when quantizing and when reading."""
        if self.is_log_grid:
            assert level is not None
            return self._table(level)[stored.int()]
        return stored.float() if level is None else stored.float() * level

    @property
    def _codes(self) -> int:
        """Magnitudes of a logarithmic grid, zero not counted."""
        return 127 if self.signed else 255

    def _table(self, level: Tensor) -> Tensor:
        """The scale of each of the 256 codes; computed in float64 so that its rounding is the same everywhere."""
        top, step = level.double().cpu()
        down = torch.arange(self._codes - 1, -1, -1, dtype=torch.float64)
        magnitudes = torch.cat([torch.zeros(1, dtype=torch.float64), top * torch.exp2(-down * step)])
        table = torch.cat([magnitudes, -magnitudes]) if self.signed else magnitudes
        return table.float().to(level.device)

    def _encode_log(self, scales: Tensor, level: Tensor, up: bool) -> Tensor:
        top, step = level.double()
        magnitudes = scales.abs()
        down = (top / magnitudes.double()).log2() / step if step > 0 else torch.zeros_like(magnitudes).double()
        down = down.floor() if up else down.round()
        codes = (self._codes - down).clamp(1, self._codes).int()
        if up:
            codes += ((self._table(level)[codes] < magnitudes) & (codes < self._codes)).int()
        codes = torch.where(magnitudes > 0, codes, 0)
        return (codes + 128 * (scales < 0) if self.signed else codes).to(torch.uint8)


def _away_from_zero(rounded: Tensor, exact: Tensor) -> Tensor:
    """The next larger magnitude wherever rounding made it smaller: one up in the bits of any sign-magnitude float."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[rounded.element_size()]
    short = (rounded.float().abs() < exact.abs()).to(integers)
    return (rounded.view(integers) + short).view(rounded.dtype)


def _encode_e8m0(scales: Tensor, up: bool) -> Tensor:
    """Powers of two; "nearest" is nearest in ratio, which is what a scale's error goes by."""
    fraction, exponent = torch.frexp(
        scales.abs().clamp_min(2.0**-126)
    )  # scale = fraction · 2^exponent, fraction in [1/2, 1)
    power = exponent - 1 + (fraction > (0.5 if up else 0.5**0.5)).int()
    return (power.clamp(-126, 127) + 127).to(torch.uint8).view(torch.float8_e8m0fnu)


SCALE_TYPES = {
    kind.name: kind
    for kind in (
        ScaleType("fp32", torch.float32),
        ScaleType("bf16", torch.bfloat16),
        ScaleType("fp16", torch.float16),
        ScaleType("e8m0", torch.float8_e8m0fnu, signed=False),
        ScaleType("e4m3", torch.float8_e4m3fn, second_level=1),
        ScaleType("e5m2", torch.float8_e5m2, second_level=1),
        ScaleType("u8", torch.uint8, signed=False, second_level=2),
        ScaleType("s8", torch.uint8, second_level=2),
    )
}
"""Scale types by name."""


def scale_type(name: str) -> ScaleType:
    """The scale type of that name.

    Raises:
        FormatError: there is none.
    """
    if name not in SCALE_TYPES:
        raise FormatError(f"unknown scale type {name!r}", f"choose one of {', '.join(SCALE_TYPES)}")
    return SCALE_TYPES[name]
