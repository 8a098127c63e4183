"""A model that makes text, with its tokenizer: on octavo's own decoder where that knows it, else on transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from octavo.base.arithmetic import Arithmetic
from octavo.base.errors import ModelError
from octavo.base.keeping import Keeping
from octavo.checkpoints import Checkpoint, open_checkpoint
from octavo.checkpoints.opening import resolve_source
from octavo.checkpoints.strict_json import read_object
from octavo.hub import QUANT_METHOD
from octavo.hub.stored import stored_model
from octavo.models.decoder import Decoder
from octavo.models.decoder_config import DecoderConfig
from octavo.models.decoder_loading import load_decoder


@dataclass(frozen=True, eq=False)
class TextModel:
    """What makes text.

    Attributes:
        network: octavo's decoder, or a model of transformers.
        tokenizer: of transformers.
        stop_tokens: those that end a text.
        reason: why transformers runs the model; empty if it does not.
    """

    network: Decoder | Any
    tokenizer: Any
    stop_tokens: frozenset[int]
    reason: str = ""

    @property
    def runner(self) -> str:
        """Who computes, in words."""
        return f"transformers ({self.reason})" if self.reason else "octavo's decoder"


def load_text_model(
    source: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    packed_cache: bool = False,
    arithmetic: Arithmetic = "exact",
    keep: Keeping = "resident",
) -> TextModel:
    """Load a model and its tokenizer.

    Args:
        source: a model directory (dense or octavo), GGUF file, embedded or hub name.
        dtype: dtype of what is not packed, and to compute in.
        device: where to compute.
        packed_cache: whether keys and values will be quantized, which transformers' caches are.
        arithmetic: of products with packed matrices; see octavo.models.decoder_loading.
        keep: the form of packed matrices in memory; see octavo.models.decoder_loading.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
        ModelError: it has no tokenizer, makes no text, or transformers has to run it in an arithmetic or a form that it
            lacks.
    """
    checkpoint = open_checkpoint(source)
    reason = "the cache is quantized" if packed_cache else _reason(checkpoint, dtype, device)
    if reason:
        if arithmetic != "exact":
            raise ModelError(f"only octavo's decoder computes in {arithmetic}, and {reason}", "use exact arithmetic")
        if keep != "resident":
            raise ModelError(f"only octavo's decoder keeps weights {keep}, and {reason}", "keep them resident")
        from octavo.models import load_language_model

        network, tokenizer = load_language_model(source, dtype=dtype)
        return transformers_model(network.to(device), tokenizer, reason)
    tokenizer = _tokenizer(source, checkpoint)
    decoder = load_decoder(stored_model(checkpoint), dtype, device, arithmetic, keep)
    return TextModel(decoder, tokenizer, _stop_tokens(checkpoint, tokenizer))


def transformers_model(network: Any, tokenizer: Any, reason: str) -> TextModel:
    """A loaded model of transformers.

    Raises:
        ModelError: there is no tokenizer.
    """
    own = network.generation_config.eos_token_id
    tokenizer = _needed(tokenizer)
    return TextModel(network, tokenizer, _tokens(tokenizer.eos_token_id if own is None else own), reason)


def _reason(checkpoint: Checkpoint, dtype: torch.dtype, device: str) -> str:
    """Why octavo's decoder does not run a model; empty if it does."""
    if torch.device(device).type != "cpu" or dtype != torch.float32:
        return "the decoder's fast paths are those of float32 on a CPU"
    quantization = checkpoint.quantization or {}
    if quantization.get("quant_method", QUANT_METHOD) != QUANT_METHOD:
        return f"the model is quantized by {quantization['quant_method']!r}"
    if quantization.get("activations") is not None:
        return "inputs of layers are rounded or transformed"
    try:
        DecoderConfig.from_huggingface(checkpoint.config)
    except ModelError as error:
        return error.problem
    return ""


def _tokenizer(source: str | Path, checkpoint: Checkpoint) -> Any:
    from octavo.models.loading import load_tokenizer
    from octavo.models.quiet import quiet

    path = resolve_source(source)
    with quiet():
        return _needed(load_tokenizer(path if path.is_dir() else checkpoint.sidecars[0].parent))


def _needed(tokenizer: Any) -> Any:
    if tokenizer is None:
        raise ModelError("the model has no tokenizer", "put its tokenizer.json beside config.json")
    return tokenizer


def _stop_tokens(checkpoint: Checkpoint, tokenizer: Any) -> frozenset[int]:
    """As transformers has it: those of generation_config.json, else of config.json, else the tokenizer's."""
    own = [path for path in checkpoint.sidecars if path.name == "generation_config.json"]
    config = read_object(own[0]) if own else checkpoint.config
    found = config.get("eos_token_id")
    return _tokens(tokenizer.eos_token_id if found is None else found)


def _tokens(found: Any) -> frozenset[int]:
    if found is None:
        return frozenset()
    return frozenset(found if isinstance(found, list) else [found])
