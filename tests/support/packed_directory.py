"""Tiny random models of many architectures, each written twice: packed, and dense with the dequantized weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from octavo.formats.format import Format

VOCABULARY = 61
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 36,
    "intermediate_size": 53,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 12,
    "max_position_embeddings": 64,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 36, "n_layer": 2, "n_head": 3, "n_positions": 64}
BERT = {"vocab_size": VOCABULARY, "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 21}

# name: (auto class, configuration class, its arguments)
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("AutoModelForCausalLM", "LlamaConfig", SMALL),
    "llama, tied": ("AutoModelForCausalLM", "LlamaConfig", {**SMALL, "tie_word_embeddings": True}),
    "qwen3": ("AutoModelForCausalLM", "Qwen3Config", SMALL),
    "gemma3": ("AutoModelForCausalLM", "Gemma3TextConfig", SMALL),
    "gpt2": ("AutoModelForCausalLM", "GPT2Config", {**GPT2, "eos_token_id": None, "bos_token_id": None}),
    "bert": ("AutoModelForMaskedLM", "BertConfig", {**BERT, "intermediate_size": 53, "max_position_embeddings": 64}),
    "qwen3-moe": ("AutoModelForCausalLM", "Qwen3MoeConfig", {**SMALL, **EXPERTS}),
    "mixtral": ("AutoModelForCausalLM", "MixtralConfig", {**SMALL, "num_local_experts": 5}),
}
FORMATS = (
    "int@4 b32 absmax:fp16",
    "cbrt-t(df=5,levels=11) b64 absmax:bf16",
    "columns(trellis(states=256)@4=8,trellis(states=256)@3) channel rms:u8",
)


def make(name: str, folder: Path, text: str, keep: str = "no such tensor") -> tuple[Any, Path, Path]:
    """The auto class, the dense and the packed directory of a random model; tensors with `keep` in their name stay."""
    import transformers

    auto, kind, arguments = ARCHITECTURES[name]
    auto_class = getattr(transformers, auto)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = auto_class.from_config(getattr(transformers, kind)(**arguments))
    model.save_pretrained(folder / "dense")
    pack(folder / "dense", folder / "packed", Format.parse(text), keep)
    return auto_class, folder / "dense", folder / "packed"


def pack(dense: Path, packed: Path, fmt: Format, keep: str = "no such tensor") -> None:
    """Quantize the matrices of the model in `dense` into the directory `packed`; leave their values in `dense`."""
    entries, parts, values = {}, {}, {}
    for key, value in load_file(dense / "model.safetensors").items():
        if value.ndim < 2 or keep in key:
            parts[key] = values[key] = value
            continue
        quantized = fmt.quantize(value)
        parts |= {f"{key}.{part}": tensor for part, tensor in quantized.parts.items()}
        values[key] = quantized.dequantize().reshape(value.shape)
        entries[key] = {"format": str(fmt), "shape": list(value.shape), "dtype": "float32"}
    save_file(values, dense / "model.safetensors", {"format": "pt"})
    packed.mkdir()
    for path in dense.iterdir():
        if path.suffix != ".safetensors":
            (packed / path.name).write_bytes(path.read_bytes())
    save_file(parts, packed / "model.safetensors", {"format": "pt"})
    config = json.loads((dense / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "octavo", "version": 1, "tensors": entries}
    (packed / "config.json").write_text(json.dumps(config))


def same_bytes(one: Path, other: Path) -> bool:
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and torch.equal(a[k].view(torch.uint8), b[k].view(torch.uint8)) for k in a
    )


def quantization(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["quantization_config"]
