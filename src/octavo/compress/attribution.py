"""The loss each compressed tensor causes on its own, measured: what a plan's predictions are held against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from octavo.base.progress import SILENT, Progress


@torch.inference_mode()
def measured_losses(
    model: nn.Module,
    replacements: Iterable[tuple[str, Tensor]],
    sequences: Int[Tensor, "sequences length"],
    total: int | None = None,
    progress: Progress = SILENT,
) -> dict[str, float]:
    """KL in nats per token from the model to itself with one weight replaced, for each replacement in turn.

    The reference's log-probabilities are kept: 8 bytes for each token and word of the vocabulary.

    Args:
        model: a causal language model; it is as before afterwards.
        replacements: pairs of a parameter's name and the value it takes.
        sequences: token ids to measure on.
    """
    reference = [_log_probabilities(model, row) for row in sequences]
    losses = {}
    for name, value in progress.track(replacements, "measuring tensors one by one", total=total):
        parameter = model.get_parameter(name)
        original = parameter.detach().clone()
        try:
            parameter.copy_(value.to(parameter))
            losses[name] = _divergence(model, sequences, reference)
        finally:
            parameter.copy_(original)
    return losses


def _log_probabilities(model: nn.Module, row: Tensor) -> Tensor:
    # In float64 the first-order terms of a small divergence cancel as they must; float32 leaves noise of its size.
    return torch.log_softmax(model(row[None]).logits[0].double(), dim=-1)


def _divergence(model: nn.Module, sequences: Tensor, reference: Sequence[Tensor]) -> float:
    total = 0.0
    for row, expected in zip(sequences, reference, strict=True):
        found = _log_probabilities(model, row)
        total += float((expected.exp() * (expected - found)).sum())
    return total / sequences.numel()
