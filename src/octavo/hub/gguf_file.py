"""A Llama model as one GGUF file, written tensor by tensor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octavo.base.errors import OctavoError, OutputError
from octavo.base.progress import Progress
from octavo.hub.gguf_blocks import Blocks, to_blocks
from octavo.hub.gguf_tokenizer import add_tokenizer
from octavo.hub.stored import StoredModel


def write_gguf(model: StoredModel, out: Path, progress: Progress) -> Path:
    """Write `model` to the file `out`.

    Raises:
        OctavoError: the package gguf is missing; the architecture, a format or the tokenizer has no GGUF equivalent.
        OutputError: `out` exists, does not end in .gguf, or cannot be written.
    """
    try:
        import gguf
    except ImportError as error:
        raise OctavoError("export to GGUF needs the package gguf", 'pip install "octavo[gguf]"') from error
    if out.suffix != ".gguf":
        raise OutputError(f"{out} is no name for a GGUF file", "choose a name that ends in .gguf")
    if os.path.lexists(out):
        raise OutputError(f"{out} exists already", "remove it or choose another name")
    config = dict(model.checkpoint.config)
    _check_architecture(config)
    if (model.activations or {}).get("transforms"):
        raise OctavoError(
            "GGUF has no place for transforms that the model computes while it runs", "export --to safetensors-bf16"
        )
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    partial = out.with_name(f".{out.name}.partial")
    writer = gguf.GGUFWriter(None, "llama")
    _add_metadata(writer, model, config)
    try:
        # Two passes over the tensors: GGUF wants all types and sizes before the first byte, and refusals come early.
        written = []
        for name in model.names:
            target = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if target is None:
                raise OctavoError(f"tensor {name} has no place in a GGUF Llama model", "export --to safetensors-bf16")
            if target == "output.weight" and config.get("tie_word_embeddings"):
                continue
            written.append(name)
            data, kind = _data(model, name, config, gguf)
            writer.add_tensor_info(target, data.shape, data.dtype, data.nbytes, raw_dtype=kind)
        out.parent.mkdir(parents=True, exist_ok=True)
        writer.write_header_to_file(partial)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name in progress.track(written, "Exporting", len(written)):
            writer.write_tensor_data(_data(model, name, config, gguf)[0])
        writer.close()
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(out)
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error})", "free space, or choose another place") from error
    finally:
        writer.close()
        partial.unlink(missing_ok=True)
    return out


def _data(model: StoredModel, name: str, config: dict[str, Any], gguf: Any) -> tuple[np.ndarray, Any]:
    """The bytes of one tensor and their GGUF type."""
    order = _rotary_order(name, model.shape(name), config)
    quantized = model.quantized(name)
    if quantized is not None:
        blocks: Blocks = to_blocks(name, quantized, order)
        return blocks.data, gguf.GGMLQuantizationType[blocks.type]
    value = model.dense(name)
    value = value if order is None else value[order]
    if value.ndim == 1:
        # llama.cpp adds and multiplies vectors in float32 only.
        return value.float().numpy(), gguf.GGMLQuantizationType.F32
    if value.dtype == torch.bfloat16:
        raw = value.contiguous().view(torch.uint8).numpy().reshape(value.shape[0], -1)
        return raw, gguf.GGMLQuantizationType.BF16
    kind = gguf.GGMLQuantizationType.F16 if value.dtype == torch.float16 else gguf.GGMLQuantizationType.F32
    return value.numpy(), kind


def _rotary_order(name: str, shape: tuple[int, ...], config: dict[str, Any]) -> Tensor | None:
    """llama.cpp's row order of queries and keys: it rotates neighboring rows, Hugging Face row i and i + half."""
    heads = config["num_attention_heads"]
    if ".self_attn.k_proj." in name:
        heads = config.get("num_key_value_heads") or heads
    elif ".self_attn.q_proj." not in name:
        return None
    return torch.arange(shape[0]).view(heads, 2, -1).swapaxes(1, 2).reshape(-1)


def _check_architecture(config: dict[str, Any]) -> None:
    if config.get("model_type") != "llama":
        raise OctavoError(
            f"octavo writes GGUF for Llama models, and this is a {config.get('model_type')!r}",
            "export --to safetensors-bf16 and use llama.cpp's own converter",
        )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise OctavoError(
            f"octavo does not write the rotary scaling {kind!r} to GGUF",
            "export --to safetensors-bf16 and use llama.cpp's own converter",
        )


def _add_metadata(writer: Any, model: StoredModel, config: dict[str, Any]) -> None:
    rope = config.get("rope_parameters") or {}
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_name(config.get("_name_or_path") or Path(model.checkpoint.source).stem)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(config.get("rope_theta") or rope.get("rope_theta") or 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_quantization_version(2)
    special = {}
    for name in ("bos", "eos", "unk", "pad"):
        number = config.get(f"{name}_token_id")
        number = number[0] if isinstance(number, list) else number
        if number is not None:
            special[name] = number
    sidecars = {path.name: path for path in model.checkpoint.sidecars}
    add_tokenizer(writer, sidecars, config["vocab_size"], special)
