"""Running a model's layers a second time during the backward pass instead of keeping their activations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint


@contextlib.contextmanager
def recomputed_layers(model: Any, watched: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
    """Within, only what goes into each layer is kept, and one layer's activations at a time.

    transformers' own switch for this works in training only, where dropout is on. A model without layers of
    transformers' kind keeps all of its activations.

    Args:
        model: a transformers model.
        watched: entered anew around each second run. The first is in it too, and both must keep the same tensors; that
            backward is called in it would not do, since a torch-function mode is off within the calls it handles.
    """
    layers = list(layers_of(model))
    for layer in layers:
        # Nothing random happens in a model that is not trained.
        layer.forward = partial(
            checkpoint,
            layer.forward,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (contextlib.nullcontext(), watched),
        )
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def layers_of(module: Any) -> Iterator[Any]:
    """A model's layers, those within another layer left out."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    for child in module.children():
        if isinstance(child, GradientCheckpointingLayer):
            yield child
        else:
            yield from layers_of(child)
