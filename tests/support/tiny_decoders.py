"""Tiny random models of the decoder's families, as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from octavo.hub.stored import open_stored
from octavo.models.decoder import Decoder
from octavo.models.decoder_loading import load_decoder

SMALL = {
    "vocab_size": 61,
    "hidden_size": 36,
    "intermediate_size": 52,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 96,
    # Far above the usual 0.02, so that the logits of an untrained model say something.
    "initializer_range": 0.3,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}


def rotary(**values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 500.0, **values}}


# name: (configuration class, its arguments)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 2": ("LlamaConfig", {**SMALL, "num_key_value_heads": 6, "head_dim": None}),
    "llama 3.1": ("LlamaConfig", {**SMALL, **rotary(**LLAMA3, original_max_position_embeddings=32)}),
    "smollm2": (
        "LlamaConfig",
        {**SMALL, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
    ),
    "llama with biases": ("LlamaConfig", {**SMALL, "attention_bias": True, "mlp_bias": True}),
    "llama, linear": ("LlamaConfig", {**SMALL, **rotary(rope_type="linear", factor=4.0)}),
    "llama, yarn": ("LlamaConfig", {**SMALL, **rotary(**YARN)}),
    "llama, yarn mscale": ("LlamaConfig", {**SMALL, **rotary(**YARN, mscale=0.7, mscale_all_dim=0.4, truncate=False)}),
    "qwen2": ("Qwen2Config", {**SMALL, "tie_word_embeddings": True}),
    "qwen2, window": (
        "Qwen2Config",
        {**SMALL, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3Config", {**SMALL, **rotary(**YARN, attention_factor=0.9)}),
    "qwen3 with biases": ("Qwen3Config", {**SMALL, "attention_bias": True}),
    "mistral": ("MistralConfig", {**SMALL, "sliding_window": 7}),
    "mistral, no window": ("MistralConfig", {**SMALL, "sliding_window": None}),
}


def make(name: str, folder: Path) -> tuple[Any, Decoder]:
    """A random model, saved in `folder`, in transformers and as our decoder; biases and norms are random too."""
    import transformers

    kind, arguments = FAMILIES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**arguments))
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.data.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    return model.eval(), load_decoder(open_stored(folder))
