"""Opens a model with everything that answering takes: engine, tokenizer, and the tokens that end an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.base.errors import CheckpointError, ModelError
from octavo.checkpoints import Checkpoint
from octavo.decoding.engine import Engine
from octavo.hub.stored import open_stored
from octavo.models.decoder_loading import load_decoder
from octavo.models.loading import load_tokenizer
from octavo.models.quiet import quiet
from octavo.serve.stepping import SteppingEngine

CONTEXT = 4096
"""Tokens a slot has room for by default; a model made for fewer gets those."""


@dataclass(frozen=True)
class ServedModel:
    """A model that is ready to answer.

    Attributes:
        name: what requests call it.
        tokenizer: its tokenizer.
        engine: its engine, all slots free.
        context: tokens that a prompt and its answer may have together.
        stop_tokens: tokens that end an answer.
    """

    name: str
    tokenizer: Any
    engine: SteppingEngine
    context: int
    stop_tokens: frozenset[int]


def open_model(
    source: str | Path, slots: int, context: int | None = None, *, name: str | None = None, device: str = "cpu"
) -> ServedModel:
    """Load a model.

    Args:
        source: a Hugging Face directory (dense, or compressed by octavo), a GGUF file, an embedded or a hub name.
        slots: answers that are made at a time.
        context: tokens that a prompt and its answer may have together; default: 4096, or as many as the model can.
        name: what requests call it; default: the last part of `source`.
        device: where it runs.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
        ModelError: it is not of the Llama family, has no tokenizer, or is not made for so much context.
    """
    with quiet():
        stored = open_stored(source)
        checkpoint = stored.checkpoint
        folder = checkpoint.source if checkpoint.source.is_dir() else checkpoint.sidecars[0].parent
        tokenizer = load_tokenizer(folder)
        if tokenizer is None:
            raise ModelError("the model has no tokenizer", "put its tokenizer.json beside config.json")
        decoder = load_decoder(stored, device=device)
    room = min(CONTEXT, decoder.config.context) if context is None else context
    ends = stop_tokens(checkpoint, tokenizer)
    return ServedModel(name or Path(source).name, tokenizer, Engine(decoder, slots, room), room, ends)


def stop_tokens(checkpoint: Checkpoint, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer, as generation_config.json, config.json and the tokenizer name them together.

    Raises:
        CheckpointError: generation_config.json is no JSON object.
    """
    found: set[int] = set()
    for config in (_generation_config(checkpoint), checkpoint.config):
        named = config.get("eos_token_id")
        found.update(named if isinstance(named, list) else [] if named is None else [named])
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    return frozenset(found)


def _generation_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    path = next((path for path in checkpoint.sidecars if path.name == "generation_config.json"), None)
    if path is None:
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON ({error})", "fetch the model again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds no JSON object", "fetch the model again")
    return config
