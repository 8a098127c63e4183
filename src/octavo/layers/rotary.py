"""Rotary position embeddings (Su et al., 2021, https://arxiv.org/abs/2104.09864) and their scalings for long contexts.

Channel i of a head's first half and channel i of its second half turn together, by position times frequency_i, as in
the checkpoints of Hugging Face.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by a factor (Chen et al., 2023, https://arxiv.org/abs/2306.15595)."""

    factor: float


@dataclass(frozen=True)
class Llama3Scaling:
    """Low frequencies divided by a factor, high ones kept, with a ramp between them (Llama 3.1).

    Attributes:
        factor: divides frequencies whose wavelength is above `context / low`.
        low, high: waves in the original context at the ends of the ramp.
        context: tokens of the original context.
    """

    factor: float
    low: float
    high: float
    context: int


@dataclass(frozen=True)
class YarnScaling:
    """YaRN (Peng et al., 2023, https://arxiv.org/abs/2309.00071, section 3.2).

    Attributes:
        factor: divides low frequencies.
        fast, slow: turns in the original context at the ends of the ramp, which is counted in channels.
        context: tokens of the original context.
        attention: factor of rotated queries and keys, the root of the temperature.
        truncate: whether the ramp's ends are whole channels.
    """

    factor: float
    fast: float
    slow: float
    context: int
    attention: float
    truncate: bool = True


Scaling = LinearScaling | Llama3Scaling | YarnScaling


@dataclass(frozen=True)
class Rotary:
    """How a model turns queries and keys.

    Attributes:
        width: channels of a head, an even number.
        theta: base of the wavelengths.
        scaling: None for none.
    """

    width: int
    theta: float
    scaling: Scaling | None = None

    def frequencies(self) -> Float32[Tensor, " half"]:
        """Radians a token of each pair of channels, on the CPU."""
        exponent = torch.arange(0, self.width, 2, dtype=torch.float32, device="cpu") / self.width
        plain = 1.0 / self.theta**exponent
        if isinstance(self.scaling, LinearScaling):
            return plain / self.scaling.factor
        if isinstance(self.scaling, Llama3Scaling):
            return _llama3(plain, self.scaling)
        if isinstance(self.scaling, YarnScaling):
            return _yarn(plain, self, self.scaling)
        return plain

    def tables(self, positions: int) -> tuple[Float32[Tensor, "positions half"], Float32[Tensor, "positions half"]]:
        """Cosines and sines of each position's turns, on the CPU."""
        angles = torch.arange(positions, dtype=torch.float32, device="cpu")[:, None] * self.frequencies()
        factor = self.scaling.attention if isinstance(self.scaling, YarnScaling) else 1.0
        return angles.cos() * factor, angles.sin() * factor


def rotate(
    heads: Float[Tensor, "*batch tokens width"],
    cosine: Float[Tensor, "tokens half"],
    sine: Float[Tensor, "tokens half"],
) -> Float[Tensor, "*batch tokens width"]:
    """Turn each token's channels by the angles of its position."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def _llama3(plain: Float32[Tensor, " half"], scaling: Llama3Scaling) -> Float32[Tensor, " half"]:
    waves = scaling.context * plain / (2 * math.pi)
    share = ((waves - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
    return (1 - share) * plain / scaling.factor + share * plain


def _yarn(plain: Float32[Tensor, " half"], rotary: Rotary, scaling: YarnScaling) -> Float32[Tensor, " half"]:
    def channel(turns: float) -> float:
        return rotary.width * math.log(scaling.context / (turns * 2 * math.pi)) / (2 * math.log(rotary.theta))

    low, high = channel(scaling.fast), channel(scaling.slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary.width - 1)
    width = high - low if high != low else 0.001
    share = 1 - ((torch.arange(len(plain), dtype=torch.float32, device="cpu") - low) / width).clamp(0, 1)
    return (1 - share) * plain / scaling.factor + share * plain
