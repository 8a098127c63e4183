"""What a request may say. What the server cannot do is refused, never ignored.

Fields that are not named here are refused as not supported; those with a single allowed value are what clients send by
default for things that are not supported. `null` means that a field is not given.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAX_STOPS = 4
INT64 = 1 << 63


class Schema(BaseModel):
    """Base of all: no unknown fields, no conversions, no infinities."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


def _one_prompt(value: Any) -> Any:
    """A text or a list of tokens; a list of one of them is taken for it."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str) or (isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)):
        return value
    raise ValueError("give one text or one list of tokens")


def _joined_parts(value: Any) -> Any:
    """Content as one text: parts of type `text` are joined."""
    if not isinstance(value, list):
        return value
    for part in value:
        if not (isinstance(part, dict) and part.keys() == {"type", "text"} and part["type"] == "text"):
            raise ValueError('content is a text or a list of parts {"type": "text", "text": ...}')
    if not all(isinstance(part["text"], str) for part in value):
        raise ValueError("the text of a part is a string")
    return "".join(part["text"] for part in value)


def _listed_stops(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class StreamOptions(Schema):
    """What a stream tells besides the text."""

    include_usage: bool = False


class ResponseFormat(Schema):
    """The form of the answer: plain text only."""

    type: Literal["text"]


class Message(Schema):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined_parts)]
    name: str | None = None


class GenerationRequest(Schema):
    """What both kinds of request have; `top_k`, `min_p` and `repetition_penalty` are octavo's own."""

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0)
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    stop: Annotated[
        list[Annotated[str, Field(min_length=1)]], BeforeValidator(_listed_stops), Field(max_length=MAX_STOPS)
    ] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    n: Literal[1] = 1
    presence_penalty: float = Field(0.0, ge=0, le=0)
    frequency_penalty: float = Field(0.0, ge=0, le=0)

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> GenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for streams only")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    prompt: Annotated[str | list[int], BeforeValidator(_one_prompt)]
    best_of: Literal[1] = 1
    echo: Literal[False] = False


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: Literal[False] = False
    response_format: ResponseFormat = ResponseFormat(type="text")

    @model_validator(mode="after")
    def _one_limit(self) -> ChatRequest:
        if self.max_completion_tokens is not None:
            if self.max_tokens is not None:
                raise ValueError("max_tokens and max_completion_tokens exclude each other")
            self.max_tokens = self.max_completion_tokens
        return self
