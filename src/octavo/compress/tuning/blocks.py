"""Block-wise tuning: layer after layer, outputs are brought near the original's.

The inputs are those that the layers before it, compressed and tuned, hand on; the targets are the outputs of the
original layer on the original's own inputs, so that a layer also makes up for what went wrong before it. The loss is
the squared error of the hidden states relative to the target, token by token: a token whose states are huge counts like
any other.

Source: the block-wise stage of BRECQ (arXiv 2102.05426) and OmniQuant (arXiv 2308.13137), of continuous parts only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from octavo.calibrate.lockstep import Call, in_lockstep
from octavo.calibrate.recomputing import layers_of
from octavo.compress.tuning.clock import Clock
from octavo.compress.tuning.descent import Descent
from octavo.compress.tuning.student import Student
from octavo.compress.tuning.weight import TunedWeight


class _Enough(Exception):
    """Ends passes whose later layers nobody needs."""


def tune_blocks(
    student: Student, original: Any, sequences: Int[Tensor, "sequences length"], clock: Clock, until: float, rate: float
) -> int:
    """Tune the layers one after the other; the number of steps.

    Args:
        student: the compressed model.
        original: the model it was made from.
        sequences: token ids; the inputs of one layer for all of them are in memory, of both models.
        clock: the time.
        until: seconds on the clock by which to be done; layers that are not reached by then stay as they are.
        rate: of learning.
    """
    layers, originals = list(layers_of(student.model)), list(layers_of(original))
    if not layers:
        return 0
    clean = [_states(call) for call in _first_calls(original, sequences)]
    steps = 0

    def visit(layer: nn.Module, calls: Sequence[Call]) -> list[Any]:
        nonlocal clean, steps
        if clock.passed >= until:
            raise _Enough
        number = next(i for i, other in enumerate(layers) if other is layer)
        with torch.no_grad():
            clean = [_output(originals[number], call, states) for call, states in zip(calls, clean, strict=True)]
        weights = [module for module in layer.modules() if isinstance(module, TunedWeight)]
        if weights:
            share = (until - clock.passed) / (len(layers) - number)
            descent = Descent(weights, rate, clock, clock.passed + share)
            while descent.goes_on:
                call, target = calls[descent.steps % len(calls)], clean[descent.steps % len(calls)]
                descent.step(_relative_error(_output(layer, call, _states(call)), target))
            steps += descent.steps
        with torch.no_grad():
            return [layer(*call.args, **call.kwargs) for call in calls]

    with contextlib.suppress(_Enough):
        in_lockstep(student.model, sequences, visit)
    return steps


def _first_calls(model: Any, sequences: Int[Tensor, "sequences length"]) -> list[Call]:
    """What a model's first layer is called with."""
    found: list[Call] = []

    def visit(layer: nn.Module, calls: Sequence[Call]) -> list[Any]:
        found.extend(calls)
        raise _Enough

    with contextlib.suppress(_Enough):
        in_lockstep(model, sequences, visit)
    return found


def _states(call: Call) -> Tensor:
    return call.args[0] if call.args else call.kwargs["hidden_states"]


def _output(layer: nn.Module, call: Call, states: Tensor) -> Tensor:
    """A layer's hidden states with others than a call's going in."""
    if call.args:
        found = layer(states, *call.args[1:], **call.kwargs)
    else:
        found = layer(**{**call.kwargs, "hidden_states": states})
    return found[0] if isinstance(found, tuple) else found


def _relative_error(found: Float[Tensor, "*tokens width"], target: Float[Tensor, "*tokens width"]) -> Float[Tensor, ""]:
    square = target.float().square().sum(-1)
    return ((found.float() - target.float()).square().sum(-1) / square.clamp_min(1e-12)).mean()
