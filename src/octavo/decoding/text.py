"""From tokens to text as they come: never half a character, and never part of what ends the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

REPLACEMENT = "\ufffd"
"""What a decoder of UTF-8 writes for bytes that make no character, or not yet."""

LONGEST = 4
"""Bytes of a character in UTF-8, and so the most tokens one can be cut into."""


class Detokenizer(Protocol):
    """What is asked of a tokenizer; those of transformers have it."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str: ...


class TextStream:
    """The text of one answer.

    Pieces put together are the text of all tokens, cut before the first stop string.

    Args:
        tokenizer: makes text of tokens.
        stop: strings that end the answer and do not belong to it.

    Attributes:
        stopped: whether a stop string has come; nothing comes after it.
    """

    def __init__(self, tokenizer: Detokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(text for text in stop if text)
        # Tokens since a place where text was whole, one such place before the last: spaces depend on what goes before.
        self._tokens: list[int] = []
        self._whole = 0
        self._shown = ""
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that is certain with one more token; often empty."""
        if self.stopped:
            return ""
        self._tokens.append(token)
        return self._released(self._decoded(final=False))

    def finish(self) -> str:
        """The rest of the text, when no more tokens come."""
        if self.stopped:
            return ""
        self._held += self._decoded(final=True)
        text, self._held = self._cut(self._held), ""
        return text

    def _decoded(self, final: bool) -> str:
        """The text of the tokens that has not been shown yet, but for a character that is not whole."""
        text = self._text(self._tokens)
        whole = text.rstrip(REPLACEMENT)
        pending = len(self._tokens) - self._whole
        if final or whole == text:
            certain = text
        elif pending > LONGEST:
            # So many tokens do not wait for one character: but for the last, the bytes make none.
            certain = text[: max(len(whole), len(text) - LONGEST + 1)]
        else:
            certain = whole
        if not certain.startswith(self._shown):
            # What has been shown cannot be taken back.
            certain = self._shown + certain[len(self._shown) :]
        new = certain[len(self._shown) :]
        self._shown = certain
        if certain == text and not final:
            self._tokens, self._whole = self._tokens[self._whole :], pending
            self._shown = self._text(self._tokens)
        return new

    def _text(self, tokens: list[int]) -> str:
        # Cleaning up would take back spaces that have been shown.
        return self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _released(self, new: str) -> str:
        """What of the held and the new text cannot become part of a stop string."""
        text = self._held + new
        cut = self._cut(text)
        if self.stopped:
            self._held = ""
            return cut
        longest = max(map(len, self._stop), default=0)
        for start in range(max(0, len(text) - longest + 1), len(text)):
            if any(stop.startswith(text[start:]) for stop in self._stop):
                self._held = text[start:]
                return text[:start]
        self._held = ""
        return text

    def _cut(self, text: str) -> str:
        """The text before the first stop string, if there is one."""
        places = {stop: text.find(stop) for stop in self._stop}
        # Whichever is whole first, so that it does not matter how many characters come at a time.
        found = [(place + len(stop), place) for stop, place in places.items() if place >= 0]
        if not found:
            return text
        self.stopped = True
        return text[: min(found)[1]]
