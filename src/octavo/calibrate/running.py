"""Running a language model on one sequence."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from octavo.base.errors import ModelError


def logits(model: Any, row: Int[Tensor, " length"]) -> Float[Tensor, "length vocabulary"]:
    """A transformers model's logits on one sequence, without a cache of keys and values.

    Raises:
        ModelError: the model has none.
    """
    return _logits(model, row, {"use_cache": False} if _takes(model, "use_cache") else {})


def cached_logits(
    model: Any, row: Int[Tensor, " length"], cache: Any, chunk: int
) -> Float[Tensor, "length vocabulary"]:
    """A transformers model's logits on one sequence whose tokens come in chunks and see earlier ones through a cache.

    Args:
        model: a model that generates.
        row: tokens.
        cache: transformers' cache of keys and values, empty; it is filled.
        chunk: tokens that come at a time.

    Raises:
        ModelError: the model keeps no keys and values.
    """
    if not (predicts_next(model) and _takes(model, "past_key_values")):
        raise ModelError(f"{type(model).__name__} keeps no keys and values", "leave out the format of the cache")
    options = {"past_key_values": cache, "use_cache": True}
    return torch.cat([_logits(model, part, options) for part in row.split(chunk)])


def _logits(model: Any, row: Tensor, options: dict[str, Any]) -> Tensor:
    device = next(model.parameters()).device
    found = getattr(model(input_ids=row[None].to(device), **options), "logits", None)
    if found is None or found.ndim != 3:
        raise ModelError(f"{type(model).__name__} predicts no tokens", "give a language model, with its head")
    return found[0]


def _takes(model: Any, argument: str) -> bool:
    return argument in inspect.signature(model.forward).parameters


def predicts_next(model: Any) -> bool:
    """Whether position i predicts token i+1; a model that does not generate, like BERT, predicts token i itself."""
    return bool(getattr(model, "can_generate", lambda: True)())
