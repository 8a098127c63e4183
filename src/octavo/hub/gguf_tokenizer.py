"""A Hugging Face byte-pair tokenizer as GGUF's lists of tokens and merges."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octavo.base.errors import CheckpointError, OctavoError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


def add_tokenizer(writer: Any, sidecars: Mapping[str, Path], vocabulary: int, special: Mapping[str, int]) -> None:
    """Add the tokenizer to a `gguf.GGUFWriter`.

    Args:
        writer: the writer.
        sidecars: the model's files by name.
        vocabulary: rows of the embedding; surplus rows become unused tokens.
        special: ids of the bos, eos, unk and pad tokens.

    Raises:
        OctavoError: not a byte-level byte-pair tokenizer whose text splitting llama.cpp has a name for.
        CheckpointError: there is no tokenizer.json, or it has more tokens than the embedding.
    """
    if "tokenizer.json" not in sidecars:
        raise CheckpointError("the model has no tokenizer.json", "put the tokenizer's files beside config.json")
    tokenizer = json.loads(sidecars["tokenizer.json"].read_text(encoding="utf-8"))
    split = splitting(tokenizer)
    tokens = {number: token for token, number in tokenizer["model"]["vocab"].items()}
    kinds = dict.fromkeys(tokens, NORMAL)
    for added in tokenizer.get("added_tokens", []):
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    if tokens and max(tokens) >= vocabulary:
        raise CheckpointError(
            f"the tokenizer has {max(tokens) + 1} tokens and the embedding {vocabulary} rows",
            "give the tokenizer that belongs to the model",
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list([tokens.get(i, f"[PAD{i}]") for i in range(vocabulary)])
    writer.add_token_types([kinds.get(i, UNUSED) for i in range(vocabulary)])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    for name, number in special.items():
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(_adds_bos(tokenizer))
    template = _chat_template(sidecars)
    if template:
        writer.add_chat_template(template)


def splitting(tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name for how a tokenizer.json splits text (`tokenizer.ggml.pre`); OctavoError if it has none."""
    from octavo.checkpoints.gguf.splits import SPLITS

    first = tokenizer.get("pre_tokenizer") or {}
    steps = first.get("pretokenizers", [first])
    normalizer = (tokenizer.get("normalizer") or {}).get("type")
    model = tokenizer.get("model", {})
    if model.get("type") == "BPE" and not model.get("byte_fallback"):
        for name, (known_normalizer, known, _, _) in SPLITS.items():
            if normalizer == (known_normalizer or {}).get("type") and _essence(steps) == _essence(known):
                return name
    raise OctavoError(
        "this tokenizer splits text in a way that llama.cpp has no name for, or is not a byte-level byte-pair one",
        "export --to safetensors-bf16 and use llama.cpp's own converter",
    )


def _essence(steps: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What decides where text is split: the steps' types, patterns and rules, not offsets or defaults."""
    found: list[tuple[Any, ...]] = []
    for step in steps:
        kind = step.get("type")
        if kind == "Split":
            found.append((kind, step["pattern"].get("Regex"), step.get("behavior"), bool(step.get("invert"))))
        elif kind == "ByteLevel":
            found.append((kind, step.get("use_regex", True), bool(step.get("add_prefix_space"))))
        else:
            found.append((kind, bool(step.get("individual_digits"))))
    return found


def _adds_bos(tokenizer: Mapping[str, Any]) -> bool:
    post = tokenizer.get("post_processor") or {}
    steps = post.get("processors", [post])
    return any("SpecialToken" in piece for step in steps for piece in (step.get("single") or [])[:1])


def _chat_template(sidecars: Mapping[str, Path]) -> str | None:
    if "chat_template.jinja" in sidecars:
        return sidecars["chat_template.jinja"].read_text(encoding="utf-8")
    if "tokenizer_config.json" in sidecars:
        template = json.loads(sidecars["tokenizer_config.json"].read_text(encoding="utf-8")).get("chat_template")
        return template if isinstance(template, str) else None
    return None
