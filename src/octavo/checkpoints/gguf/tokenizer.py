"""The byte-pair tokenizer inside a GGUF file, written as a Hugging Face tokenizer.

Written here rather than by transformers, which knows neither how `tokenizer.ggml.pre` splits text (SmolLM2 splits
numbers into digits) nor needs less than seconds for it. What the splits are: llama.cpp, `src/llama-vocab.cpp`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from octavo.base.errors import CheckpointError
from octavo.checkpoints.gguf.header import Header
from octavo.checkpoints.gguf.names import special_tokens
from octavo.checkpoints.gguf.splits import SPLITS, byte_level

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4


def tokenizer_files(header: Header) -> dict[str, Any]:
    """File name -> JSON value (or text): tokenizer.json, tokenizer_config.json, generation_config.json, chat template.

    Raises:
        CheckpointError: not a byte-pair tokenizer whose splitting is known here.
    """
    path = header.path
    model, split = header.get("tokenizer.ggml.model", str), header.get("tokenizer.ggml.pre", str, "default")
    if model != "gpt2" or split not in SPLITS:
        raise CheckpointError(
            f"{path} has a tokenizer of kind {model!r} with the text splitting {split!r}, which octavo does not know",
            "give the model's original Hugging Face directory",
        )
    tokens, merges = header.get("tokenizer.ggml.tokens", list), header.get("tokenizer.ggml.merges", list)
    if len(set(tokens)) != len(tokens) or any(" " not in merge for merge in merges):
        raise CheckpointError(f"{path} has no proper list of tokens and merges", "fetch the file again")
    special = special_tokens(header)
    kinds = header.get("tokenizer.ggml.token_type", np.ndarray, np.ones(len(tokens)))
    if len(kinds) != len(tokens) or any(not 0 <= number < len(tokens) for number in special.values()):
        raise CheckpointError(
            f"{path} names special tokens or kinds of tokens that do not fit its tokens", "fetch the file again"
        )
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": header.get(f"{header.get('general.architecture', str)}.context_length", int),
        "clean_up_tokenization_spaces": False,
        **{f"{key}_token": tokens[number] for key, number in special.items()},
    }
    generation = {f"{key}_token_id": number for key, number in special.items() if key != "unk"}
    files = {
        "tokenizer.json": _tokenizer(header, tokens, merges, special),
        "tokenizer_config.json": config,
        "generation_config.json": generation,
    }
    if template := header.get("tokenizer.chat_template", str, ""):
        files["chat_template.jinja"] = template
    return files


def _tokenizer(header: Header, tokens: list[str], merges: list[str], special: Mapping[str, int]) -> dict[str, Any]:
    normalizer, splits, ignore_merges, starts = SPLITS[header.get("tokenizer.ggml.pre", str)]
    kinds = header.get("tokenizer.ggml.token_type", np.ndarray, np.ones(len(tokens)))
    added = [
        {"id": i, "content": token, "special": kind in (_UNKNOWN, _CONTROL)}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits},
        "post_processor": _post_processor(header, tokens, special, starts),
        "decoder": byte_level(use_regex=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in merges],
        },
    }


def _post_processor(header: Header, tokens: list[str], special: Mapping[str, int], starts: bool) -> dict[str, Any]:
    """Adds the begin and end tokens that the file wants; `starts` is what holds where it says nothing."""
    wanted = {
        "bos": header.get("tokenizer.ggml.add_bos_token", bool, starts) and "bos" in special,
        "eos": header.get("tokenizer.ggml.add_eos_token", bool, False) and "eos" in special,
    }
    if not any(wanted.values()):
        return {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}

    def sequence(name: str, number: int) -> list[dict[str, Any]]:
        around = {
            key: [{"SpecialToken": {"id": tokens[special[key]], "type_id": number}}] if on else []
            for key, on in wanted.items()
        }
        return [*around["bos"], {"Sequence": {"id": name, "type_id": number}}, *around["eos"]]

    used = [special[key] for key, on in wanted.items() if on]
    return {
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": sequence("A", 0) + sequence("B", 1),
        "special_tokens": {tokens[i]: {"id": tokens[i], "ids": [i], "tokens": [tokens[i]]} for i in used},
    }
