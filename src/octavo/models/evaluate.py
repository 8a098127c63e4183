"""How far a model has moved from its reference on a text."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from octavo.base.errors import ModelError
from octavo.base.progress import SILENT, Progress
from octavo.calibrate.running import logits, predicts_next
from octavo.calibrate.text import heldout_text, token_sequences
from octavo.measure.divergence import PositionBin, SequenceDivergence, compare, summarize
from octavo.measure.layerwise import LayerNoise, LayerQuality, decoder_layers, recorded
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


def evaluate(
    model: str | Path | nn.Module,
    reference: str | Path | nn.Module,
    text: str | Path | Int[Tensor, "sequences length"] | None = None,
    *,
    length: int = 512,
    count: int = 8,
    by: By | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Compare a model's predictions with its reference's, one sequence at a time.

    Both models are in memory, and the logits of one sequence.

    Args:
        model: a source to load, or a loaded transformers model.
        reference: likewise.
        text: the text itself, a Path to it, or token ids; default: docstrings of Python's library. A short text gives
            fewer sequences, and `length` is cut to what the models take.
        length: tokens a sequence.
        count: sequences, at random places of the text that do not overlap.
        by: also split by "position" in the sequence, or by "layer".
        seed: of the places.
        device: where to run; default: where the models are.
        progress: told of every sequence.

    Raises:
        ModelError: the vocabularies differ, the text is too short, or only one of two models was loaded here and the
            text's tokens are unknown.
        CheckpointError: a source cannot be read.
    """
    judged, tokenizer = _loaded(model)
    original, original_tokenizer = _loaded(reference)
    if device is not None:
        for loaded in (judged, original):
            loaded.to(device)
    _check_vocabularies(judged, original)
    if isinstance(text, Tensor):
        sequences = text
    else:
        limits = [limit for limit in map(context_length, (judged, original)) if limit]
        sequences = token_sequences(
            _one_of(original_tokenizer, tokenizer),
            heldout_text() if text is None else text,
            min([length, *limits]),
            count,
            generator=torch.Generator().manual_seed(seed),
        )
    noise = LayerNoise()
    found = []
    for row in progress.track(sequences, "evaluating", total=len(sequences)):
        found.append(_one(judged, original, row, noise if by == "layer" else None))
    summary = summarize(found)
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
        length=sequences.shape[1],
        positions=summary.positions if by == "position" else (),
        layers=noise.result(),
    )


@torch.inference_mode()
def _one(judged: Any, original: Any, row: Int[Tensor, " length"], noise: LayerNoise | None) -> SequenceDivergence:
    if noise is None:
        expected, found = logits(original, row), logits(judged, row)
    else:
        with recorded(decoder_layers(original)) as clean, recorded(decoder_layers(judged)) as noisy:
            expected, found = logits(original, row), logits(judged, row)
        noise.add(clean, noisy)
    return compare(expected, found, row[1:] if predicts_next(original) else row)


def _loaded(model: str | Path | nn.Module) -> tuple[Any, Any]:
    return (model, None) if isinstance(model, nn.Module) else load_language_model(model)


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
