"""Finding the tensor in which a run went wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def first_not_finite(
    model: nn.Module, batches: Callable[[], list[Mapping[str, Tensor]]], again: Callable[[], None]
) -> str:
    """The first tensor that holds NaN or infinity, in words: of the weights, the data, the layers' outputs in the order
    they are computed, or the gradients; empty if all are finite.

    Args:
        model: after a backward pass.
        batches: that it was given.
        again: computes the losses once more, without gradients.
    """
    for name, parameter in model.named_parameters():
        if not _finite(parameter):
            return f"the weight {name}"
    for batch in batches():
        for name, tensor in batch.items():
            if not _finite(tensor):
                return f"the data's {name}"
    if found := _first_output(model, again):
        return f"the output of {found}"
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not _finite(parameter.grad):
            return f"the gradient of {name}"
    return ""


@torch.no_grad()
def _first_output(model: nn.Module, again: Callable[[], None]) -> str:
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def look(module: nn.Module, inputs: object, output: object) -> None:
            if not found and isinstance(output, Tensor) and not _finite(output):
                found.append(name)

        return look

    handles = [module.register_forward_hook(watch(name or "the model")) for name, module in model.named_modules()]
    try:
        again()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.detach()).all())
