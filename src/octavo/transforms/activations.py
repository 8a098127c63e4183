"""Rounding activations to a microscaling format on the fly: the values that come back, in the dtype that came.

Equal to `Format.fake_quantize` of the format, without making codes: scales and element steps are powers of two, read
off the exponent bits, and rounding to a multiple of a power of two is exact.

Gradients pass straight through the rounding of an element, and take the scale of a block for a multiple of its largest
magnitude: with q = s·r(x/s), dq = dx + (q - x)·d(max)/max. So they know that the error of a block grows with it, and
that an outlier costs its neighbors. With a constant scale the error would seem to vanish in a map that inflates.

Two scale rules: "floor", the OCP specification's, X = 2^(floor(log2 absmax) - e), e being the exponent of the element's
largest power of two, under which the largest numbers may saturate; and "ceil", X = 2^ceil(log2(absmax / largest)),
under which none does (the format `e2m1 b32 absmax:e8m0` for mxfp4).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.formats.microscaling import E8M0_BIAS, MICROSCALING, Microscaling

ScaleRule = Literal["floor", "ceil"]
SCALE_RULES: tuple[ScaleRule, ...] = ("floor", "ceil")

_SMALLEST = 2.0**-126


def activation_format(name: str) -> Microscaling:
    """The format of that name, one whose scales need no look at the whole tensor.

    Raises:
        FormatError: there is none.
    """
    known = [name for name, element in MICROSCALING.items() if not element.two_level]
    if name not in known:
        raise FormatError(f"activations cannot be quantized to {name!r}", f"choose one of {', '.join(known)}")
    return MICROSCALING[name]


def fake_quantize(
    values: Float[Tensor, "*rows n"], element: Microscaling, scale: ScaleRule = "floor"
) -> Float[Tensor, "*rows n"]:
    """`values` after quantizing, blocks running along the last axis; in their own dtype, computed in float32.

    A block with a number that is not finite comes back as NaN.

    Args:
        values: activations.
        element: from `activation_format`.
        scale: the scale rule.
    """
    rounded = _StraightThrough.apply(values, element, scale)
    assert isinstance(rounded, Tensor)
    return rounded


class _StraightThrough(torch.autograd.Function):
    """Rounds forwards; backwards as the module says."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, element: Microscaling, scale: ScaleRule) -> Tensor:
        rounded = _rounded(values, element, scale)
        ctx.save_for_backward(values, rounded)
        ctx.block = element.block
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        values, rounded = ctx.saved_tensors
        size = values.shape[-1]
        error = _blocks(gradient * (rounded - values), ctx.block).sum(-1, keepdim=True)
        blocks = _blocks(values, ctx.block)
        place = blocks.abs().argmax(-1, keepdim=True)
        top = blocks.gather(-1, place)
        of_scale = torch.zeros_like(blocks).scatter_(-1, place, torch.where(top == 0, 0, error / top))
        return gradient + of_scale.flatten(-2)[..., :size], None, None


def _blocks(values: Tensor, block: int) -> Tensor:
    """The last axis in blocks, filled up with zeros."""
    padded = -values.shape[-1] % block
    if padded:
        values = torch.nn.functional.pad(values, (0, padded))
    return values.unflatten(-1, (-1, block))


def _rounded(values: Tensor, element: Microscaling, scale: ScaleRule) -> Tensor:
    blocks = _blocks(values.float(), element.block)
    top = blocks.abs().amax(-1, keepdim=True)
    scales = _scales(top, element, scale)
    rounded = round_elements(blocks / scales.clamp_min(_SMALLEST), element) * scales
    # Infinity has saturated by now, and is a mistake all the same.
    rounded = torch.where(top.isfinite(), rounded, torch.nan)
    return rounded.flatten(-2)[..., : values.shape[-1]].to(values.dtype)


def _scales(top: Float32[Tensor, "*rows 1"], element: Microscaling, scale: ScaleRule) -> Float32[Tensor, "*rows 1"]:
    if scale == "floor":
        power = (top.view(torch.int32) >> 23) - E8M0_BIAS - element.top_exponent
    else:
        fraction, power = torch.frexp((top / element.largest).clamp_min(_SMALLEST))
        power = power - (fraction == 0.5).int()
    return power.clamp(-E8M0_BIAS, E8M0_BIAS).add_(E8M0_BIAS).to(torch.uint8).view(torch.float8_e8m0fnu).float()


def round_elements(scaled: Float32[Tensor, "*rows"], element: Microscaling) -> Float32[Tensor, "*rows"]:
    """The nearest elements to numbers in units of their scales: ties to even, saturating."""
    if not element.exponent:
        step = 2.0 ** (1 - element.mantissa)
        return (scaled / step).round_().mul_(step).clamp_(-element.largest, element.largest)
    lowest = 2 - 2 ** (element.exponent - 1)
    # Within an octave elements lie evenly; below the lowest as in it.
    octave = ((scaled.view(torch.int32) >> 23) & 0xFF).clamp_min_(lowest + E8M0_BIAS)
    step = ((octave - element.mantissa) << 23).view(torch.float32)
    return (scaled / step).round_().mul_(step).clamp_(-element.largest, element.largest)
