"""The model layer by layer: what feeding errors back is worth, and then rounding every layer after those before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

from jaxtyping import Float, Float32
from torch import Tensor

from octavo.base.progress import Progress
from octavo.calibrate.hessian import Moments, Outset, layerwise
from octavo.calibrate.naming import checkpoint_name
from octavo.compress.planning import default_jobs
from octavo.compress.rounding.damping import damping_for
from octavo.compress.rounding.error_feedback import Elimination, eliminate, feed_back
from octavo.compress.sensitivity import Sensitivity, with_model
from octavo.formats import Format, Importance
from octavo.formats.tensor import QuantizedTensor

Rounded = Callable[[str, Tensor, Elimination], Tensor]
"""Rounds a tensor of the checkpoint and returns the values it will have."""


def with_conditional_importance(source: str | Path, known: Sensitivity, device: str, progress: Progress) -> Sensitivity:
    """The sensitivity as error feedback sees it: of each column, what later columns cannot make up for.

    Args:
        source: the model.
        known: what calibration found.
        device: where the model runs.
        progress: told how far it is.
    """
    found: dict[str, Importance] = {}
    damping: dict[str, float] = {}

    def look(name: str, _: Tensor, moments: Moments) -> None:
        if name in known.importance:
            damping[name] = damping_for(moments)
            column = eliminate(moments.whole, damping[name]).conditional
            found[name] = Importance(known.importance[name].row, column)

    _through_layers(source, known, device, progress, "measuring inputs", look, lambda names: Outset({}, default_jobs()))
    return replace(known, conditional=found, damping=damping)


def round_layers(
    source: str | Path,
    known: Sensitivity,
    device: str,
    progress: Progress,
    rounded: Rounded,
    begin: Callable[[Sequence[str]], Outset],
) -> None:
    """Round every matrix of a layer to which errors are fed back, and go on with what it became.

    Args:
        source: the model.
        known: from `with_conditional_importance`.
        device: where the model runs.
        progress: told how far it is.
        rounded: called for each tensor, by the checkpoint's name, in several threads if `begin` says so.
        begin: told the tensors of each layer before they are rounded, by the checkpoint's names.
    """

    def replaced(name: str, values: Tensor, moments: Moments) -> Tensor | None:
        if name not in known.conditional:
            return None
        return rounded(name, values, eliminate(moments.whole, known.damping[name]))

    _through_layers(source, known, device, progress, "rounding layers", replaced, begin)


def quantize_with_feedback(
    format: Format,
    weights: Float[Tensor, "out in"],
    row: Float32[Tensor, " out"],
    elimination: Elimination,
) -> QuantizedTensor:
    """A matrix, its errors fed back; scales, codebooks and steps follow the conditional importance."""
    importance = Importance(row, elimination.conditional, elimination.upper)
    rounder = format.settle(weights, importance)
    return rounder.quantize(feed_back(weights, rounder, elimination))


def _through_layers(
    source: str | Path,
    known: Sensitivity,
    device: str,
    progress: Progress,
    description: str,
    act: Callable[[str, Tensor, Moments], Tensor | None],
    begin: Callable[[Sequence[str]], Outset],
) -> None:
    sequences = known.sequences
    assert sequences is not None

    def work(model: Any, tokenizer: Any) -> None:
        names = {name: checkpoint_name(model, name) for name in known.strengths}
        strengths = {name: known.strengths[name] for name, stored in names.items() if stored is not None}
        bar = iter(progress.track(range(len(strengths)), description, total=len(strengths)))
        one_at_a_time = Lock()

        def replaced(name: str, values: Tensor, moments: Moments) -> Tensor | None:
            with one_at_a_time:
                next(bar, None)
            stored = names[name]
            assert stored is not None
            return act(stored, values.float().cpu(), replace(moments, sums=moments.sums.cpu()))

        def begun(here: Sequence[str]) -> Outset:
            stored = {found: name for name in here if (found := names[name]) is not None}
            outset = begin(list(stored))
            for _ in outset.known:
                next(bar, None)
            return replace(outset, known={stored[name]: values for name, values in outset.known.items()})

        layerwise(model, sequences, strengths, replaced, begin=begun)
        for _ in bar:
            pass

    with_model(source, device, progress, work)
