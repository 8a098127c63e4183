"""What is minimized: functions from a model and a batch to a loss. The trainer knows nothing else of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Batch = Mapping[str, Tensor]
"""Tensors by name, of which the first axis counts examples."""


class Objective(Protocol):
    """A loss, to be called once a micro-batch."""

    def __call__(
        self, model: Callable[..., Tensor], batch: Batch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, as a mean over it, and figures worth writing down.

        Args:
            model: the module, perhaps compiled or sharded: call it as a whole.
            batch: on the model's device.
            generator: of everything that is drawn, on that device; seeded by the run and the batch alone.
        """
        ...


def next_token_loss(
    model: Callable[..., Tensor], batch: Batch, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross entropy of each next token, in nats a token.

    Args:
        batch: `tokens` [batch, length + 1].
    """
    tokens = batch["tokens"]
    logits = model(tokens[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten()), {}
