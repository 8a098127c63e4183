"""The bodies of OpenAI's two kinds of answer, whole and in chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

Body = dict[str, Any]


@dataclass(frozen=True)
class Usage:
    """Tokens of a request."""

    prompt: int
    completion: int

    def body(self) -> Body:
        """As clients expect it."""
        total = self.prompt + self.completion
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": total}


class Reply(Protocol):
    """Writes the bodies of one answer."""

    def whole(self, text: str, finish: str, usage: Usage) -> Body:
        """The answer in one piece."""
        ...

    def opening(self) -> list[Body]:
        """Chunks before the first text."""
        ...

    def chunk(self, text: str, finish: str | None) -> Body:
        """A piece of text, or with `finish` the end."""
        ...

    def counts(self, usage: Usage) -> Body:
        """The chunk that only counts."""
        ...


@dataclass(frozen=True)
class CompletionReply:
    """Answers to /v1/completions.

    Attributes:
        id: the answer's own name.
        model: the name of the model.
        created: seconds since 1970.
    """

    id: str
    model: str
    created: int

    def whole(self, text: str, finish: str, usage: Usage) -> Body:
        return {**self.chunk(text, finish), "usage": usage.body()}

    def opening(self) -> list[Body]:
        return []

    def chunk(self, text: str, finish: str | None) -> Body:
        return self._body([{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}])

    def counts(self, usage: Usage) -> Body:
        return {**self._body([]), "usage": usage.body()}

    def _body(self, choices: list[Body]) -> Body:
        head = {"id": f"cmpl-{self.id}", "object": "text_completion", "created": self.created, "model": self.model}
        return {**head, "choices": choices}


@dataclass(frozen=True)
class ChatReply:
    """Answers to /v1/chat/completions; attributes as of `CompletionReply`."""

    id: str
    model: str
    created: int

    def whole(self, text: str, finish: str, usage: Usage) -> Body:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return {**self._body("chat.completion", [choice]), "usage": usage.body()}

    def opening(self) -> list[Body]:
        return [self._chunk({"role": "assistant", "content": ""}, None)]

    def chunk(self, text: str, finish: str | None) -> Body:
        return self._chunk({"content": text} if text else {}, finish)

    def counts(self, usage: Usage) -> Body:
        return {**self._body("chat.completion.chunk", []), "usage": usage.body()}

    def _chunk(self, delta: Body, finish: str | None) -> Body:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._body("chat.completion.chunk", [choice])

    def _body(self, kind: str, choices: list[Body]) -> Body:
        head = {"id": f"chatcmpl-{self.id}", "object": kind, "created": self.created, "model": self.model}
        return {**head, "choices": choices}
