"""From what a client sends to tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from octavo.base.errors import ModelError


def text_tokens(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text to go on from; of an empty one, the token that begins every text.

    Raises:
        ModelError: the text is empty, and this tokenizer begins texts with nothing.
    """
    tokens = list(tokenizer(text, verbose=False).input_ids)
    if not tokens and tokenizer.bos_token_id is not None:
        return [tokenizer.bos_token_id]
    if not tokens:
        raise ModelError("the prompt has no tokens", "give a prompt")
    return tokens


def conversation_tokens(tokenizer: Any, messages: Sequence[dict[str, str]]) -> list[int]:
    """The tokens of a conversation that the assistant is to go on with, through the tokenizer's chat template.

    Args:
        tokenizer: of the model.
        messages: turns with `role` and `content`.

    Raises:
        ModelError: there is no chat template, or it refuses these messages.
    """
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        raise ModelError("the model has no chat template", "use /v1/completions or `octavo generate`")
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise ModelError(f"the model's chat template refuses these messages ({error})", "change their roles") from error
    # The template has placed the special tokens itself.
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
