"""End-to-end tuning: the whole compressed model is brought near the original by the divergence of their predictions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from octavo.calibrate.running import logits
from octavo.compress.tuning.best import Best
from octavo.compress.tuning.clock import Clock
from octavo.compress.tuning.descent import Descent
from octavo.compress.tuning.student import Student

PATIENCE = 2
"""Measurements on held-out text in a row that may fail to be the best before tuning stops."""

CHECKS = 0.2
"""Share of the time that measurements may take."""


def tune_end_to_end(
    student: Student,
    original: Any,
    sequences: Int[Tensor, "sequences length"],
    best: Best,
    clock: Clock,
    rate: float,
) -> int:
    """Tune all parts together; the number of steps.

    Args:
        student: the compressed model.
        original: the model it was made from.
        sequences: token ids, one to a step.
        best: measures the student now and then.
        clock: the time; enough of it is left for a last measurement.
        rate: of learning.
    """
    descent = Descent(student.weights, rate, clock, clock.passed + clock.left - best.seconds)
    since = clock.passed
    while descent.goes_on and best.failures < PATIENCE:
        row = sequences[descent.steps % len(sequences)]
        with torch.no_grad():
            expected = logits(original, row)
        descent.step(divergence(expected, logits(student.model, row)))
        if (clock.passed - since) * CHECKS > best.seconds:
            best.measure(student)
            since = clock.passed
    best.measure(student)
    return descent.steps


def divergence(
    expected: Float[Tensor, "length vocabulary"], found: Float[Tensor, "length vocabulary"]
) -> Float[Tensor, ""]:
    """KL divergence between two models' predictions in nats per token, differentiable by the second's logits."""
    ours, theirs = F.log_softmax(found.float(), -1), F.log_softmax(expected.float(), -1)
    return F.kl_div(ours, theirs, reduction="sum", log_target=True) / len(found)
