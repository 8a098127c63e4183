"""How far the tuned model, as it would be stored, is from the original on text that it is not tuned on."""

from __future__ import annotations

import contextlib
import math
from typing import Any, Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from octavo.base.errors import ModelError
from octavo.calibrate.running import logits, predicts_next
from octavo.measure.divergence import compare, summarize


class Judged(Protocol):
    """A model that is being changed."""

    def as_stored(self) -> contextlib.AbstractContextManager[Any]:
        """Within, the model is the one that would be read back from the file."""
        ...


class HeldOut:
    """Sequences to judge on, and what the original makes of them up to its head.

    Args:
        original: a transformers model.
        sequences: token ids.
    """

    def __init__(self, original: Any, sequences: Int[Tensor, "sequences length"]) -> None:
        self._original, self._sequences = original, sequences
        self._outputs: list[Any] = []

    @torch.no_grad()
    def divergence(self, student: Judged) -> float:
        """KL(original ‖ compressed) in nats per token, of the model that would be read back from the file.

        Infinite where that model's logits are not finite.
        """
        found = []
        with student.as_stored() as model, contextlib.suppress(ModelError):
            for number, row in enumerate(self._sequences):
                labels = row[1:] if predicts_next(self._original) else row
                found.append(compare(self._expected(number, row), logits(model, row), labels))
        return summarize(found).forward.mean if len(found) == len(self._sequences) else math.inf

    def _expected(self, number: int, row: Int[Tensor, " length"]) -> Tensor:
        """The original's logits; all but its head runs once a sequence."""
        base = self._original.base_model
        if number == len(self._outputs):
            handle = base.register_forward_hook(lambda module, inputs, output: self._outputs.append(output))
            try:
                return logits(self._original, row)
            finally:
                handle.remove()
        base.forward = lambda *inputs, **options: self._outputs[number]
        try:
            return logits(self._original, row)
        finally:
            del base.forward
