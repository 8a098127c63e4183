"""Tensors kept for the backward pass the way autograd keeps its own, so that a recomputed layer need not hold them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def keep(tensor: Tensor) -> Callable[[], Tensor]:
    """Keep a tensor until the backward pass; what is returned gives it back there, once.

    Inside a checkpointed layer (`torch.utils.checkpoint`) nothing is held: the tensor is computed a second time. A
    closure over the tensor would hold it, and with it the activations that the checkpoint is there to let go.
    """
    if not torch.is_grad_enabled():
        return lambda: tensor
    kept = _Keep.apply(torch.empty(0, requires_grad=True), tensor.detach())
    return lambda: kept.grad_fn.saved_tensors[0]


class _Keep(torch.autograd.Function):
    """A node beside the graph: no gradient ever comes to it, it only has autograd's place for saved tensors."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, tensor: Tensor) -> Tensor:
        ctx.save_for_backward(tensor)
        return anchor.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None
