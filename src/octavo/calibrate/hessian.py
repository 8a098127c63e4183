"""Second moments of the inputs of a model's matrices, layer by layer, while the layers may change on the way.

Of a matrix y = W x, a change δW costs ½ Σ_t |g_t · δW x_t|² to second order, g being the gradient at y. With the
squares of g split off as in octavo.calibrate.fisher, what is left for the columns is

    H = Σ_t ‖g_t‖² x_t x_tᵀ / Σ_t ‖g_t‖²,

whose diagonal is the column factor of the separable Fisher. The ‖g_t‖² are those that the Fisher pass found; the x_t
are the inputs at hand, which after rounding of earlier layers are no longer the original ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from octavo.base.threads import in_threads
from octavo.calibrate.lockstep import Call, in_lockstep
from octavo.calibrate.running import Samples
from octavo.calibrate.uses import Use, WeightUses


@dataclass(frozen=True, eq=False)
class Moments:
    """The second moments of a matrix's inputs, every other sequence apart: what one half shows the other can check.

    Attributes:
        sums: Σ ‖g_t‖² x_t x_tᵀ over the sequences of even, and over those of odd number.
        strengths: Σ ‖g_t‖² over them.
    """

    sums: Float32[Tensor, "2 in in"]
    strengths: tuple[float, float]

    @property
    def whole(self) -> Float32[Tensor, "in in"]:
        """H of all sequences."""
        return self.sums.sum(0) / max(sum(self.strengths), 1e-30)

    def half(self, number: int) -> Float32[Tensor, "in in"]:
        """H of the sequences of even (0) or odd (1) number."""
        return self.sums[number] / max(self.strengths[number], 1e-30)


Replacement = Callable[[str, Tensor, Moments], Tensor | None]
"""Told a parameter's name, its values [out, in] and moments; returns values to go on with, or None to keep these."""


@dataclass(frozen=True, eq=False)
class Outset:
    """What is known when a layer's turn comes.

    Attributes:
        known: values of matrices that need not be measured any more, by name.
        jobs: how many of the others may be replaced at once.
    """

    known: Mapping[str, Tensor]
    jobs: int


ALL_ANEW = Outset({}, 1)


def layerwise(
    model: Any,
    sequences: Samples,
    strengths: Mapping[str, Float[Tensor, " _"]],
    replace: Replacement,
    *,
    begin: Callable[[Sequence[str]], Outset] = lambda names: ALL_ANEW,
) -> None:
    """Go through a model's layers, measuring H of every matrix in a layer, replacing it, and going on with the result.

    Matrices are measured on what comes out of the layers before as they were replaced. At any time there are the inputs
    of one layer for all sequences, and twice the second moments of one layer's matrices.

    Args:
        model: a transformers model in evaluation mode; it is as before afterwards.
        sequences: token ids, or the inputs of another model by name.
        strengths: by parameter name, the squared gradient of each token; matrices without one are left alone.
        replace: told each matrix, in a thread of its own if several are replaced at once.
        begin: told the matrices of each layer before anything else is done with them, in the order of replacement.
    """
    weights = {name: parameter for name, parameter in model.named_parameters() if name in strengths}
    owners = {name: (model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in weights}

    def put(name: str, values: Tensor) -> None:
        owner, attribute = owners[name]
        owner._parameters[attribute] = nn.Parameter(values.to(weights[name].dtype), requires_grad=False)

    def visit(layer: nn.Module, calls: Sequence[Call]) -> list[Any]:
        inside = {id(parameter) for parameter in layer.parameters()}
        here = {name: weight for name, weight in weights.items() if id(weight) in inside}
        outset = begin(list(here))
        try:
            left = {name: weight for name, weight in here.items() if name not in outset.known}
            moments = _measure(layer, calls, left, strengths)

            def replaced(name: str) -> Tensor | None:
                return replace(name, here[name].detach(), moments.pop(name))

            names = [name for name in left if name in moments]
            workers = max(1, min(outset.jobs, len(here)))
            for name, values in zip(names, in_threads(replaced, names, workers), strict=True):
                if values is not None:
                    put(name, values)
            for name, values in outset.known.items():
                put(name, values)
            return [layer(*call.args, **call.kwargs) for call in calls]
        finally:
            for name, weight in here.items():
                owner, attribute = owners[name]
                owner._parameters[attribute] = weight

    with torch.no_grad():
        in_lockstep(model, sequences, visit)


@dataclass(eq=False)
class _Sums:
    """The sums for one matrix, and what has been seen of it."""

    sums: Float32[Tensor, "2 in in"]
    strengths: list[float]
    tokens: int = 0
    sequences: int = 0


def _measure(
    layer: nn.Module,
    calls: Sequence[Call],
    weights: Mapping[str, nn.Parameter],
    strengths: Mapping[str, Float[Tensor, " _"]],
) -> dict[str, Moments]:
    """Moments of each matrix of a layer that is used in the plain way: once a sequence, stored [out, in]."""
    found: dict[str, _Sums] = {}
    odd: set[str] = set()

    def count(use: Use) -> Tensor:
        inputs = use.inputs().detach()
        if use.lookup or use.by_input or weights[use.name].ndim != 2:
            odd.add(use.name)
            return use.outputs
        rows = inputs.reshape(-1, inputs.shape[-1]).float()
        here = found.setdefault(use.name, _Sums(rows.new_zeros(2, rows.shape[1], rows.shape[1]), [0.0, 0.0]))
        strength = strengths[use.name][here.tokens : here.tokens + len(rows)]
        if len(strength) != len(rows):
            odd.add(use.name)
            return use.outputs
        weighted, half = rows * strength.to(rows).sqrt()[:, None], here.sequences % 2
        here.sums[half].addmm_(weighted.T, weighted)
        here.strengths[half] += float(strength.sum())
        here.tokens += len(rows)
        here.sequences += 1
        return use.outputs

    if weights:
        with WeightUses(weights, count):
            for call in calls:
                layer(*call.args, **call.kwargs)
    whole = [name for name, here in found.items() if here.tokens == len(strengths[name]) and name not in odd]
    return {name: Moments(found[name].sums, (found[name].strengths[0], found[name].strengths[1])) for name in whole}
