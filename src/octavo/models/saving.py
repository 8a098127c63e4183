"""Writing a trained decoder as a Hugging Face directory, which transformers, our decoder and `octavo compress` load."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from octavo.base.errors import ModelError
from octavo.base.progress import SILENT, Progress
from octavo.checkpoints import CheckpointWriter
from octavo.checkpoints.dtypes import plain_name
from octavo.checkpoints.quantized import described as quantized_entry
from octavo.checkpoints.quantized import quantization_config
from octavo.formats.tensor import QuantizedTensor
from octavo.layers.rotary import LinearScaling, Llama3Scaling, Rotary, YarnScaling
from octavo.models.decoder_config import DecoderConfig
from octavo.models.transformer import Transformer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def save_huggingface(
    model: Transformer,
    tokenizer: Tokenizer | None,
    directory: str | Path,
    *,
    end: str | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Progress = SILENT,
) -> None:
    """Write config.json, the weights and the tokenizer's files into a new directory.

    Args:
        model: what to write.
        tokenizer: None for none.
        directory: must not exist yet.
        end: the token between documents, at which generation stops.
        dtype: to store the weights in.
        progress: told how far the writing is.

    Raises:
        OutputError: the directory exists, or cannot be written.
        ModelError: no family of Hugging Face computes this.
    """
    write_huggingface(model.named_parameters(), model.config, tokenizer, directory, end, dtype, progress)


def write_huggingface(
    tensors: Iterable[tuple[str, Tensor | QuantizedTensor]],
    config: DecoderConfig,
    tokenizer: Tokenizer | None,
    directory: str | Path,
    end: str | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Progress = SILENT,
) -> None:
    """The same from tensors by their names, of which one at a time is in memory; quantized ones are written as such."""
    described = huggingface_config(config) | {"dtype": plain_name(dtype)}
    files: dict[str, str] = {}
    if tokenizer is not None:
        files["tokenizer.json"] = tokenizer.to_str(pretty=False)
        settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config.context}
        number = None if end is None else tokenizer.token_to_id(end)
        if number is not None:
            settings |= {"eos_token": end, "pad_token": end}
            described["eos_token_id"] = number
        files["tokenizer_config.json"] = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    # Unlike a compression, a save is not gone on with: its key is of this one alone.
    with CheckpointWriter(directory, uuid.uuid4().hex, progress=progress) as writer:
        quantized = {}
        for name, tensor in tensors:
            if isinstance(tensor, QuantizedTensor):
                writer.write(name, tensor.parts)
                quantized[name] = quantized_entry(tensor.format, tensor.shape, dtype)
            else:
                writer.write(name, {"": tensor.detach().to(dtype)})
        if quantized:
            described["quantization_config"] = quantization_config(quantized)
        writer.finish(described, files=files)


def huggingface_config(config: DecoderConfig) -> dict[str, Any]:
    """The config.json that `DecoderConfig.from_huggingface` reads as this.

    Raises:
        ModelError: no family of Hugging Face computes this.
    """
    windows = {*config.windows}
    if config.head_norms:
        family = "qwen3"
    elif config.attention_bias and not config.output_bias:
        family = "qwen2"
    elif windows != {None}:
        family = "mistral"
    else:
        family = "llama"
    described = {
        "architectures": [_CLASSES[family]],
        "model_type": family,
        "vocab_size": config.vocabulary,
        "hidden_size": config.hidden,
        "intermediate_size": config.inner,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.shared_heads,
        "head_dim": config.rotary.width,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.epsilon,
        "rope_theta": config.rotary.theta,
        "rope_parameters": _rope_parameters(config.rotary),
        "hidden_act": "silu",
        "tie_word_embeddings": config.tied,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.inner_bias,
    }
    if windows != {None}:
        described["sliding_window"] = next(window for window in config.windows if window is not None)
        if family != "mistral":
            kinds = ["full_attention" if window is None else "sliding_attention" for window in config.windows]
            described |= {"use_sliding_window": True, "layer_types": kinds}
    if DecoderConfig.from_huggingface(described) != config:
        raise ModelError(f"no {family} model of Hugging Face has these biases, norms and windows", "change the config")
    return described


def _rope_parameters(rotary: Rotary) -> dict[str, Any]:
    described: dict[str, Any] = {"rope_theta": rotary.theta}
    match rotary.scaling:
        case None:
            return described | {"rope_type": "default"}
        case LinearScaling(factor):
            return described | {"rope_type": "linear", "factor": factor}
        case Llama3Scaling(factor, low, high, context):
            frequencies = {"low_freq_factor": low, "high_freq_factor": high}
            rest = {"factor": factor, "original_max_position_embeddings": context}
            return described | frequencies | rest | {"rope_type": "llama3"}
        case YarnScaling(factor, fast, slow, context, attention, truncate):
            ramp = {"beta_fast": fast, "beta_slow": slow, "truncate": truncate, "attention_factor": attention}
            rest = {"factor": factor, "original_max_position_embeddings": context}
            return described | ramp | rest | {"rope_type": "yarn"}
