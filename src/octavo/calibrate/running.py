"""Running a model that predicts tokens on one sample.

A sample of a causal or a masked language model is a row of token ids. A model that reads something else as well, such
as an encoder-decoder one, is run on its inputs by name (`input_features`, `decoder_input_ids` and so on), as its
`forward` takes them, in a batch of one.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from octavo.base.errors import ModelError

Sample = Int[Tensor, " length"] | Mapping[str, Tensor]
"""Token ids, or a model's inputs by name in a batch of one."""

Samples = Int[Tensor, "sequences length"] | Sequence[Mapping[str, Tensor]]
"""Several samples of one kind."""


def logits(model: Any, sample: Sample) -> Float[Tensor, "length vocabulary"]:
    """A transformers model's logits on one sample, without a cache of keys and values.

    Raises:
        ModelError: the model has none, or the sample is none of this model.
    """
    return run(model, sample).logits[0]


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
    if not (predicts_next(model) and "past_key_values" in inspect.signature(model.forward).parameters):
        raise ModelError(f"{type(model).__name__} keeps no keys and values", "leave out the format of the cache")
    return torch.cat([run(model, part, cache).logits[0] for part in row.split(chunk)])


def run(model: Any, sample: Sample, cache: Any = None) -> Any:
    """All that a transformers model returns for one sample; it has `logits`, of one sequence.

    Args:
        model: the model.
        sample: what it reads.
        cache: of the keys and values of what it has read before, to be read and filled; None for no cache.

    Raises:
        ModelError: the model has none, or the sample is none of this model.
    """
    known = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in known else {}
    if cache is not None:
        options = {"past_key_values": cache, "use_cache": True}
    device = next(model.parameters()).device
    if isinstance(sample, Tensor):
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            raise ModelError(
                f"{type(model).__name__} is an encoder-decoder model, which no text alone calibrates or judges",
                "compress with --effort fast, or measure its sensitivity on inputs by name",
            )
        sample = {"input_ids": sample[None]}
    elif unknown := sorted(sample.keys() - known.keys()):
        raise ModelError(f"{type(model).__name__} has no input {unknown[0]}", f"give some of {', '.join(known)}")
    output = model(**{name: tensor.to(device) for name, tensor in sample.items()}, **options)
    found = getattr(output, "logits", None)
    if found is None or found.ndim != 3:
        raise ModelError(f"{type(model).__name__} predicts no tokens", "give a language model, with its head")
    if len(found) != 1:
        raise ModelError(f"a sample holds {len(found)} sequences", "give a list of samples in batches of one")
    return output


def tokens_of(sample: Sample) -> Int[Tensor, " length"]:
    """The tokens at whose positions a model predicts.

    Raises:
        ModelError: the sample has none.
    """
    if isinstance(sample, Tensor):
        return sample
    for name in ("decoder_input_ids", "input_ids"):
        if name in sample:
            return sample[name][0]
    raise ModelError("a sample has no tokens", "give decoder_input_ids, or input_ids")


def lengths(output: Any) -> frozenset[int]:
    """How long the sequences are that go through a model's layers: the one that is predicted, and an encoder's."""
    encoded = getattr(output, "encoder_last_hidden_state", None)
    return frozenset({output.logits.shape[1], *(() if encoded is None else (encoded.shape[1],))})


def predicts_next(model: Any) -> bool:
    """Whether position i predicts token i+1; a model that does not generate, like BERT, predicts token i itself."""
    return bool(getattr(model, "can_generate", lambda: True)())
