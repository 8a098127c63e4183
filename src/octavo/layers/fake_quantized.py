"""Layers that compute with quantized values while their own weights learn in full precision.

Forward takes Ŵ = dequantize(quantize(W)); backward hands the gradient of Ŵ to W unchanged, the straight-through
estimator (Bengio et al., arXiv 1308.3432): nothing is masked, scales and codebooks get no gradient, and autograd keeps
nothing of the rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from octavo.formats.frozen import Frozen


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, frozen: Frozen) -> Tensor:
        return frozen.values(weights).to(weights.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


def fake_quantize(weights: Float[Tensor, "*shape"], frozen: Frozen) -> Float[Tensor, "*shape"]:
    """The quantized values of weights, in their dtype; their gradient is the weights'."""
    return _StraightThrough.apply(weights, frozen)  # pyright: ignore[reportReturnType]


class FakeQuantizedLinear(nn.Linear):
    """A linear layer as any other until it is given a format; from then on its products are with quantized values.

    Attributes:
        frozen: the format and what was estimated of the weight; None as long as nothing is quantized.
    """

    frozen: Frozen | None = None

    @property
    def values(self) -> Float[Tensor, "rows columns"]:
        """The matrix that inputs are multiplied with."""
        return self.weight if self.frozen is None else fake_quantize(self.weight, self.frozen)

    def forward(self, input: Float[Tensor, "*batch columns"]) -> Float[Tensor, "*batch rows"]:
        return F.linear(input, self.values, self.bias)
