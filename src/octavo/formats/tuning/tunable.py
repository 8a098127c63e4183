"""What may still be tuned of a tensor whose codes are fixed, and a table's values through which gradients flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from octavo.formats.tensor import QuantizedTensor

Deviations = Mapping[str, Tensor]
"""How far each continuous part lies from what is stored; zeros stand for the stored tensor."""


class Tunable(Protocol):
    """A quantized tensor as a function of its continuous parts: scales, codebook, common steps, never the codes.

    Parameters are deviations from what is stored, in natural units: the logarithm of a scale's multiple, or a share of
    the distance between neighboring values. One rate of learning suits them all.
    """

    @property
    def device(self) -> torch.device:
        """Where values are computed."""
        ...

    @property
    def sizes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the parameters by name."""
        ...

    def values(self, deviations: Deviations) -> Float[Tensor, "*shape"]:
        """The values that the codes stand for, differentiable by the deviations: of a matrix, its rows and columns."""
        ...

    def stored(self, deviations: Deviations) -> QuantizedTensor:
        """The tensor with its continuous parts moved and rounded to their own dtypes: as many bits as before."""
        ...


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, codes: Tensor) -> Tensor:
        ctx.save_for_backward(codes)
        ctx.levels = len(table)
        # Several times as fast as indexing with the codes.
        return table.index_select(0, codes.flatten().int()).view(codes.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (codes,) = ctx.saved_tensors
        return torch.bincount(codes.flatten(), gradients[0].flatten(), minlength=ctx.levels), None


def looked_up(table: Float[Tensor, " levels"], codes: Integer[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """table[codes], differentiable by the table; of what autograd keeps, the codes are all."""
    return _Lookup.apply(table, codes)  # pyright: ignore[reportReturnType]


def moved_values(values: Float[Tensor, " n"], shares: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Ascending values, each moved by a share of the mean distance between neighbors."""
    return values + shares * ((values[-1] - values[0]) / (len(values) - 1))
