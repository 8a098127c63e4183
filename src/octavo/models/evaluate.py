"""How far a model has moved from its reference on a text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from octavo.base.errors import ModelError
from octavo.base.progress import SILENT, Progress
from octavo.calibrate.running import cached_logits, logits, predicts_next
from octavo.calibrate.text import heldout_text, token_sequences
from octavo.measure.divergence import Divergence, PositionBin, SequenceDivergence, compare, summarize
from octavo.measure.layerwise import LayerNoise, LayerQuality, decoder_layers, recorded
from octavo.models.cache_format import CacheFormat
from octavo.models.loading import context_length, load_language_model

By = Literal["layer", "position"]


@dataclass(frozen=True)
class Evaluation:
    """A model against its reference; means over tokens, standard errors over sequences, natural logarithms.

    Attributes:
        kl: KL(reference ‖ model) over the full vocabulary, nats per token.
        kl_backward: KL(model ‖ reference), nats per token.
        perplexity: of the model, exp of the mean negative log-likelihood.
        reference_perplexity: of the reference.
        agreement: share of positions where both find the same token likeliest.
        excess_loss: the model's mean negative log-likelihood minus the reference's, nats per token.
        sequences: how many sequences.
        length: tokens in each.
        positions: the same by position, if asked for.
        layers: SQNR of every layer's output, if asked for.
    """

    kl: float
    kl_error: float
    kl_backward: float
    kl_backward_error: float
    perplexity: float
    perplexity_error: float
    reference_perplexity: float
    reference_perplexity_error: float
    agreement: float
    agreement_error: float
    excess_loss: float
    excess_loss_error: float
    sequences: int
    length: int
    positions: tuple[PositionBin, ...] = ()
    layers: tuple[LayerQuality, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`; what is not finite (the error of a single sequence) becomes None."""
        return _finite(dataclasses.asdict(self))


Source = str | Path | nn.Module | tuple[Any, Any]
"""A model to load, a loaded transformers model, or a loaded (model, tokenizer)."""


def evaluate(
    model: Source,
    reference: Source,
    text: str | Path | Int[Tensor, "sequences length"] | None = None,
    *,
    length: int = 512,
    count: int = 8,
    by: By | None = None,
    cache: CacheFormat | str | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Compare a model's predictions with its reference's, one sequence at a time.

    Both models are in memory, and the logits of one sequence.

    Args:
        model: a source to load, a loaded transformers model, or a loaded (model, tokenizer).
        reference: likewise.
        text: the text itself, a Path to it, or token ids; default: docstrings of Python's library. A short text gives
            fewer sequences, and `length` is cut to what the models take.
        length: tokens a sequence.
        count: sequences, at random places of the text that do not overlap.
        by: also split by "position" in the sequence, or by "layer".
        cache: how the model keeps keys and values, e.g. "int@4 b32"; the reference keeps them as they are. The text
            then comes in chunks of the cache's group, so that every token sees older ones as it would in generation.
        seed: of the places.
        device: where to run; default: where the models are.
        progress: told of every sequence.

    Raises:
        ModelError: the vocabularies differ, the text is too short, only one of two models was loaded here and the
            text's tokens are unknown, or the model keeps no keys and values that could be quantized.
        FormatError: `cache` is no format of a cache.
        CheckpointError: a source cannot be read.
    """
    options = {"length": length, "count": count, "by": by, "seed": seed, "device": device, "progress": progress}
    return evaluate_each([model], reference, text, cache=cache, **options)[0]


def evaluate_each(
    models: Sequence[Source],
    reference: Source,
    text: str | Path | Int[Tensor, "sequences length"] | None = None,
    *,
    length: int = 512,
    count: int = 8,
    by: By | None = None,
    cache: CacheFormat | str | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: Progress = SILENT,
) -> list[Evaluation]:
    """`evaluate` of several models against one reference, which runs only once on every sequence.

    All models are in memory together. Arguments and errors are those of `evaluate`.
    """
    if isinstance(cache, str):
        cache = CacheFormat.parse(cache)
    if cache is not None and by == "layer":
        raise ModelError("layers are not compared through a quantized cache", "ask for --by position, or no cache")
    original, original_tokenizer = _loaded(reference)
    loaded = [_loaded(model) for model in models]
    judged = [model for model, _ in loaded]
    for model in judged:
        _check_vocabularies(model, original)
    if device is not None:
        for model in (*judged, original):
            model.to(device)
    if isinstance(text, Tensor):
        sequences = text
    else:
        limits = [limit for limit in map(context_length, (*judged, original)) if limit]
        sequences = token_sequences(
            _one_of(original_tokenizer, *(tokenizer for _, tokenizer in loaded)),
            heldout_text() if text is None else text,
            min([length, *limits]),
            count,
            generator=torch.Generator().manual_seed(seed),
        )
    noises = [LayerNoise() for _ in judged]
    found: list[list[SequenceDivergence]] = [[] for _ in judged]
    for row in progress.track(sequences, "evaluating", total=len(sequences)):
        compared = _compared(judged, original, row, cache, noises if by == "layer" else None)
        for divergence, into in zip(compared, found, strict=True):
            into.append(divergence)
    return [
        _evaluation(summarize(divergences), sequences.shape[1], by, noise)
        for divergences, noise in zip(found, noises, strict=True)
    ]


@torch.inference_mode()
def _compared(
    judged: Sequence[Any],
    original: Any,
    row: Int[Tensor, " length"],
    cache: CacheFormat | None,
    noises: Sequence[LayerNoise] | None,
) -> Iterator[SequenceDivergence]:
    """Each model against the reference on one sequence, in turn."""
    labels = row[1:] if predicts_next(original) else row
    if noises is None:
        expected = logits(original, row)
        for model in judged:
            yield compare(expected, _judged_logits(model, row, cache), labels)
        return
    with recorded(decoder_layers(original)) as clean:
        expected = logits(original, row)
    for model, noise in zip(judged, noises, strict=True):
        with recorded(decoder_layers(model)) as noisy:
            found = logits(model, row)
        noise.add(clean, noisy)
        yield compare(expected, found, labels)


def _judged_logits(model: Any, row: Int[Tensor, " length"], cache: CacheFormat | None) -> Tensor:
    if cache is None:
        return logits(model, row)
    from octavo.models.cache import QuantizedCache

    return cached_logits(model, row, QuantizedCache(model.config, cache), cache.group)


def _evaluation(summary: Divergence, length: int, by: By | None, noise: LayerNoise) -> Evaluation:
    return Evaluation(
        kl=summary.forward.mean,
        kl_error=summary.forward.error,
        kl_backward=summary.backward.mean,
        kl_backward_error=summary.backward.error,
        perplexity=summary.perplexity,
        # To first order, the error of an exponential.
        perplexity_error=summary.perplexity * summary.loss.error,
        reference_perplexity=summary.reference_perplexity,
        reference_perplexity_error=summary.reference_perplexity * summary.reference_loss.error,
        agreement=summary.agreement.mean,
        agreement_error=summary.agreement.error,
        excess_loss=summary.excess_loss.mean,
        excess_loss_error=summary.excess_loss.error,
        sequences=summary.sequences,
        length=length,
        positions=summary.positions if by == "position" else (),
        layers=noise.result(),
    )


def _loaded(model: Source) -> tuple[Any, Any]:
    if isinstance(model, nn.Module):
        return model, None
    return model if isinstance(model, tuple) else load_language_model(model)


def _one_of(*tokenizers: Any) -> Any:
    for tokenizer in tokenizers:
        if tokenizer is not None:
            return tokenizer
    raise ModelError("neither model came with a tokenizer", "put tokenizer.json beside config.json, or give token ids")


def _check_vocabularies(judged: Any, original: Any) -> None:
    ours, theirs = (model.config.get_text_config().vocab_size for model in (judged, original))
    if ours != theirs:
        raise ModelError(
            f"the model has {ours} tokens and the reference {theirs}", "compare with the model it was made from"
        )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value if not isinstance(value, float) or math.isfinite(value) else None
