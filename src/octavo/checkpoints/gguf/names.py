"""Llama-like models in GGUF: Hugging Face names, the rotary row order, and the config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from octavo.base.errors import CheckpointError
from octavo.checkpoints.gguf.header import Header

_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_ELSEWHERE = re.compile(r"(\w+)\.(weight|bias)")


def hugging_face_name(name: str) -> str | None:
    """The Hugging Face name of GGUF tensor `name` (`blk.0.attn_q.weight`), or None if it has none."""
    if match := _BLOCK.fullmatch(name):
        layer, part, kind = match.groups()
        return f"model.layers.{layer}.{_INSIDE[part]}.{kind}" if part in _INSIDE else None
    if match := _ELSEWHERE.fullmatch(name):
        part, kind = match.groups()
        return f"{_OUTSIDE[part]}.{kind}" if part in _OUTSIDE else None
    return None


def rotary_heads(name: str, config: Mapping[str, Any]) -> int | None:
    """Heads whose rows llama.cpp has reordered in GGUF tensor `name`; None where it keeps the order.

    Only the architecture `llama` is reordered: its converter pairs neighboring rows, Hugging Face pairs row i of a head
    with row i + half a head.
    """
    if config["model_type"] != "llama" or not (match := _BLOCK.fullmatch(name)):
        return None
    return {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}.get(match[2])


def restore_rotary_rows(tensor: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's reordering of the first dimension of `tensor` (a weight or a bias)."""
    half = tensor.shape[0] // heads // 2
    return tensor.view(heads, half, 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def make_config(header: Header) -> dict[str, Any]:
    """The Hugging Face config of a llama, qwen2 or qwen3 GGUF.

    Raises:
        CheckpointError: another architecture, experts, scaled rotary frequencies, or a key is missing.
    """
    path = header.path
    architecture = header.get("general.architecture", str)
    if architecture not in _CLASSES:
        raise CheckpointError(
            f"{path} has the architecture {architecture!r}; of GGUF files octavo reads {', '.join(_CLASSES)}",
            "give the model's original Hugging Face directory",
        )

    def get(key: str, default: int | None = None) -> int:
        value = header.get(f"{architecture}.{key}", int, default)
        if not 0 < value < 1 << 31:
            raise CheckpointError(f"{path} has the impossible {architecture}.{key} {value}", "fetch the file again")
        return value

    scaling = header.get(f"{architecture}.rope.scaling.type", str, "none")
    experts = header.get(f"{architecture}.expert_count", int, 0)
    if experts or scaling != "none" or "rope_freqs.weight" in header.tensors:
        raise CheckpointError(
            f"{path} uses experts or scaled rotary frequencies, which octavo does not read from GGUF",
            "give the model's original Hugging Face directory",
        )
    heads = get("attention.head_count")
    hidden = get("embedding_length")
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2 or embedding.shape[1] != hidden:
        raise CheckpointError(f"{path} has no token embedding of width {hidden}", "fetch the file again")
    config = {
        "architectures": [_CLASSES[architecture]],
        "model_type": architecture,
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "head_dim": get("attention.key_length", get("rope.dimension_count", hidden // heads)),
        "max_position_embeddings": get("context_length"),
        "rms_norm_eps": _shortest(header.get(f"{architecture}.attention.layer_norm_rms_epsilon", float)),
        "rope_theta": _shortest(header.get(f"{architecture}.rope.freq_base", float, 10000.0)),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "dtype": "float32",
    }
    if architecture == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in header.tensors
        config["mlp_bias"] = "blk.0.ffn_up.bias" in header.tensors
    for key, number in special_tokens(header).items():
        config[f"{key}_token_id"] = number
    return config


def special_tokens(header: Header) -> dict[str, int]:
    """Ids of the `bos`, `eos`, `unk` and `pad` tokens that the file names.

    Raises:
        CheckpointError: an id is no whole number.
    """
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    found = {key: header.get(f"tokenizer.ggml.{name}_token_id", int, -1) for key, name in names.items()}
    return {key: number for key, number in found.items() if number != -1}


def _shortest(value: float) -> float:
    """The shortest decimal that float32 cannot tell from `value`: 9.999999747378752e-06 is 1e-05."""
    return float(np.format_float_scientific(np.float32(value)))
