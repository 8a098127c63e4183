"""From a loaded model's weights to the tensors of its checkpoint.

transformers stacks the experts of a mixture into one Parameter while loading and takes it apart again when saving, and
renames here and there. The same reversal, applied to tensors that hold a weight's factors in place of its values, tells
which factors belong to which tensor of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from octavo.calibrate.sums import Factors, merged


def checkpoint_factors(model: nn.Module, factors: Mapping[str, Factors]) -> dict[str, Factors]:
    """Factors of a model's parameters by the names and in the shapes of its checkpoint, each as a single matrix.

    While it runs it takes the memory of a float64 copy of the tensors that the checkpoint holds in another form.

    Args:
        model: the model; one that transformers did not make keeps its names.
        factors: factors by parameter name.
    """
    # One after the other, since each may hold copies.
    rows = {k: v[..., 0].clone() for k, v in _reversed(model, factors, lambda f: f.row[:, :, None]).items()}
    columns = {k: v[..., 0, :].clone() for k, v in _reversed(model, factors, lambda f: f.column[:, None, :]).items()}
    tokens = {k: v[..., 0, 0].clone() for k, v in _reversed(model, factors, lambda f: f.tokens[:, None, None]).items()}
    found = {}
    for name, row in rows.items():
        column = columns[name]
        found[name] = merged(
            Factors(row.reshape(-1, row.shape[-1]), column.reshape(-1, column.shape[-1]), tokens[name].reshape(-1))
        )
    return found


def _reversed(model: Any, factors: Mapping[str, Factors], values: Callable[[Factors], Tensor]) -> Mapping[str, Tensor]:
    state = {}
    for name, found in factors.items():
        shape = model.get_parameter(name).shape
        # As if written to every element of the weight, without memory of its own.
        spread = values(found).expand(len(found.row), *shape[-2:])
        state[name] = spread if len(shape) == 3 else spread[0]
    if not hasattr(model, "save_pretrained"):
        return state
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(model, state)
