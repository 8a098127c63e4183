"""A model that is ready to answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.base.arithmetic import Arithmetic
from octavo.base.errors import ModelError
from octavo.base.keeping import Keeping
from octavo.decoding.engine import Engine
from octavo.hub.text_model import load_text_model
from octavo.models.decoder import Decoder
from octavo.serve.stepping import SteppingEngine

CONTEXT = 4096
"""Tokens that a slot has room for by default; a model made for fewer gets those."""


@dataclass(frozen=True)
class ServedModel:
    """A model with everything that answering takes.

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
    source: str | Path,
    slots: int,
    context: int | None = None,
    name: str | None = None,
    arithmetic: Arithmetic = "exact",
    keep: Keeping = "resident",
) -> ServedModel:
    """Load a model.

    Args:
        source: a Hugging Face directory (dense, or compressed by octavo), a GGUF file, an embedded or a hub name.
        slots: answers that are made at a time.
        context: tokens that a prompt and its answer may have together; default: 4096, or as many as the model can.
        name: what requests call it; default: the last part of `source`.
        arithmetic: of products with packed matrices; see octavo.models.decoder_loading.
        keep: the form of packed matrices in memory; see octavo.models.decoder_loading.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
        ModelError: octavo's decoder does not run it, it has no tokenizer, or is not made for so much context.
    """
    model = load_text_model(source, arithmetic=arithmetic, keep=keep)
    if not isinstance(model.network, Decoder):
        raise ModelError(
            f"answering runs on octavo's decoder, and {source} does not ({model.reason})", "use `octavo generate`"
        )
    room = min(CONTEXT, model.network.config.context) if context is None else context
    engine = Engine(model.network, slots, room)
    return ServedModel(name or Path(source).name, model.tokenizer, engine, room, model.stop_tokens)
