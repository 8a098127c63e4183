"""From a loaded model's weights to the tensors of its checkpoint.

transformers stacks the experts of a mixture into one Parameter while loading and takes it apart again when saving, and
renames here and there. The same reversal, applied to tensors that hold a weight's factors in place of its values, tells
which factors belong to which tensor of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from octavo.calibrate.sums import Factors, merged

THIN = 12
"""How often a factor is repeated that its weight repeats a thousand times; weights are cut into two or three parts."""


def checkpoint_factors(model: nn.Module, factors: Mapping[str, Factors]) -> dict[str, Factors]:
    """Factors of a model's parameters by the names and in the shapes of its checkpoint, each as a single matrix.

    Args:
        model: the model; one that transformers did not make keeps its names.
        factors: factors by parameter name.
    """
    shapes = {name: tuple(model.get_parameter(name).shape) for name in factors}
    nothing = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in _reversed(model, nothing).items()}
    passes = _thin(model, factors, shapes, expected) or _full(model, factors, shapes)
    found = {}
    for name, row in passes.rows.items():
        column, tokens = passes.columns[name], passes.tokens[name]
        found[name] = merged(
            Factors(row.reshape(-1, row.shape[-1]), column.reshape(-1, column.shape[-1]), tokens.reshape(-1))
        )
    return found


def checkpoint_name(model: nn.Module, name: str) -> str | None:
    """The tensor of the checkpoint that a parameter is; None if it is made of several of them, or of a part."""
    shape = tuple(model.get_parameter(name).shape)
    found = _reversed(model, {name: torch.empty(shape, device="meta")})
    if len(found) != 1:
        return None
    ((stored, tensor),) = found.items()
    return stored if tuple(tensor.shape) == shape else None


class _Passes(NamedTuple):
    """What a reversal makes of each factor, by the checkpoint's names."""

    rows: dict[str, Tensor]
    columns: dict[str, Tensor]
    tokens: dict[str, Tensor]


def _thin(
    model: Any, factors: Mapping[str, Factors], shapes: Mapping[str, Any], expected: Mapping[str, Any]
) -> _Passes | None:
    """The reversal of factors that are repeated a few times only; None where it does not give the expected shapes.

    The experts of a layer in float64 would be by far the largest tensor of a calibration.
    """
    few = {name: tuple(min(THIN, side) for side in shape[-2:]) for name, shape in shapes.items()}
    try:
        found = _passes(model, factors, shapes, few)
    except (RuntimeError, ValueError, IndexError):
        return None
    right = all(part.keys() == expected.keys() for part in (found.rows, found.columns, found.tokens)) and all(
        found.rows[name].shape == shape[:-1]
        and found.columns[name].shape == (*shape[:-2], shape[-1])
        and found.tokens[name].shape == shape[:-2]
        for name, shape in expected.items()
    )
    return found if right else None


def _full(model: Any, factors: Mapping[str, Factors], shapes: Mapping[str, Any]) -> _Passes:
    """The reversal of factors repeated to the sizes of their weights, which may take a float64 copy of these."""
    return _passes(model, factors, shapes, {name: shape[-2:] for name, shape in shapes.items()})


def _passes(
    model: Any, factors: Mapping[str, Factors], shapes: Mapping[str, Any], sides: Mapping[str, tuple[int, ...]]
) -> _Passes:
    """One reversal a factor, each repeated along the axes it lacks to `sides`."""
    rows, columns, tokens = {}, {}, {}
    for name, found in factors.items():
        height, width = sides[name]
        # As if written to every element of the weight, without memory of its own.
        rows[name] = _stacked(found.row[:, :, None].expand(-1, -1, width), shapes[name])
        columns[name] = _stacked(found.column[:, None, :].expand(-1, height, -1), shapes[name])
        tokens[name] = _stacked(found.tokens[:, None, None].expand(-1, height, width), shapes[name])
    # One after the other, since each may hold copies.
    return _Passes(
        {name: tensor[..., 0].clone() for name, tensor in _reversed(model, rows).items()},
        {name: tensor[..., 0, :].clone() for name, tensor in _reversed(model, columns).items()},
        {name: tensor[..., 0, 0].clone() for name, tensor in _reversed(model, tokens).items()},
    )


def _stacked(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    return values if len(shape) == 3 else values[0]


def _reversed(model: Any, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Tensors by parameter name, renamed and taken apart as transformers does when it saves."""
    if not hasattr(model, "save_pretrained"):
        return state
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(model, dict(state))
