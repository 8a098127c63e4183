"""Running a language model on one sequence."""

from __future__ import annotations

import inspect
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from octavo.base.errors import ModelError


def logits(model: Any, row: Int[Tensor, " length"]) -> Float[Tensor, "length vocabulary"]:
    """A transformers model's logits on one sequence, without a cache of keys and values.

    Raises:
        ModelError: the model has none.
    """
    options = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    device = next(model.parameters()).device
    found = getattr(model(input_ids=row[None].to(device), **options), "logits", None)
    if found is None or found.ndim != 3:
        raise ModelError(f"{type(model).__name__} predicts no tokens", "give a language model, with its head")
    return found[0]


def predicts_next(model: Any) -> bool:
    """Whether position i predicts token i+1; a model that does not generate, like BERT, predicts token i itself."""
    return bool(getattr(model, "can_generate", lambda: True)())
