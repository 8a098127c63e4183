"""Learning from another network's predictions: KL(teacher ‖ student) over the whole vocabulary, in nats per token.

Logits take as much memory as anything in a small network with a large vocabulary. So they are made a slice of tokens at
a time, and made again in the backward pass: what is in memory at once does not grow with the text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from octavo.base.errors import ConfigurationError, ModelError
from octavo.models.transformer import Transformer
from octavo.training.objective import Batch

LOGITS_AT_ONCE = 1 << 22
"""Logits of one network in memory, about."""

Head = Callable[[Tensor], Tensor]
"""From the last hidden states [tokens, hidden] to logits [tokens, vocabulary]."""


class Distillation:
    """An objective of octavo.training.trainer: a student's divergence from a teacher.

    It looks inside the student, which must be one module in one process.

    Args:
        teacher: a `Transformer`, or a causal language model of transformers, on the device of the student; it is only
            read.
        logits_at_once: logits of one network to hold in memory, about.
    """

    def __init__(self, teacher: nn.Module, logits_at_once: int = LOGITS_AT_ONCE) -> None:
        self._teacher, self._logits_at_once = teacher, logits_at_once

    def __call__(
        self, model: Callable[..., Tensor], batch: Batch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over the tokens of a batch.

        Args:
            batch: `tokens` [batch, length]; where the next tokens are predicted, the last one is only a label and is
                left out by whoever makes the batch, or read like the others.
        """
        if not isinstance(model, nn.Module):
            raise ConfigurationError("a student must be a module", "give the network itself")
        tokens = batch["tokens"]
        with torch.no_grad():
            expected, expected_head = hidden_and_head(self._teacher, tokens)
        found, head = hidden_and_head(model, tokens)
        divergence = sliced_divergence(expected, expected_head, found, head, self._logits_at_once)
        return divergence, {"divergence": divergence}


def sliced_divergence(
    expected: Float[Tensor, "tokens _"],
    expected_head: Head,
    found: Float[Tensor, "tokens _"],
    head: Head,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> Float[Tensor, ""]:
    """KL(expected ‖ found) in nats per token, from the last hidden states and heads of two networks.

    Differentiable by the second network's states and head.
    """
    with torch.no_grad():
        vocabulary = expected_head(expected[:1]).shape[-1]
    size = max(1, logits_at_once // vocabulary)

    def part(theirs: Tensor, ours: Tensor) -> Tensor:
        with torch.no_grad():
            target = F.log_softmax(expected_head(theirs).float(), -1)
        return F.kl_div(F.log_softmax(head(ours).float(), -1), target, reduction="sum", log_target=True)

    total = found.new_zeros((), dtype=torch.float32)
    for theirs, ours in zip(expected.split(size), found.split(size), strict=True):
        slice_divergence = recomputed(part, theirs, ours, use_reentrant=False, preserve_rng_state=False)
        assert isinstance(slice_divergence, Tensor)
        total = total + slice_divergence
    return total / len(found)


def hidden_and_head(model: nn.Module, tokens: Int[Tensor, "batch length"]) -> tuple[Float[Tensor, "tokens _"], Head]:
    """The last hidden states of a network, and what makes logits of them.

    Raises:
        ModelError: the network is not of a kind whose head is known.
    """
    if isinstance(model, Transformer):
        # A weight that is quantized on each use is so once.
        weight = model.model.embed_tokens.weight if model.lm_head is None else model.lm_head.weight
        return model.model(tokens).flatten(0, 1), lambda hidden: F.linear(hidden, weight)
    base, output = getattr(model, "base_model", None), getattr(model, "get_output_embeddings", lambda: None)()
    if base is None or base is model or not isinstance(output, nn.Linear) or _reshaped(model):
        raise ModelError(
            f"{type(model).__name__} has no plain head over its last hidden states", "distill a causal language model"
        )
    weight, bias = output.weight, output.bias
    hidden = base(input_ids=tokens, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1), lambda states: F.linear(states, weight, bias)


def _reshaped(model: Any) -> bool:
    """Whether logits are more than a product: capped, or scaled."""
    config = model.config.get_text_config()
    return any(getattr(config, name, None) for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"))
