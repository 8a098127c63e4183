"""What is refused, and that it is refused with a clear error of OpenAI's shape."""

from __future__ import annotations

import http.client
import json
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from hash_engine import HashEngine
from hash_server import NAME, Running, running

from octavo.serve.application import Limits

Start = Callable[..., Running]
COMPLETION = {"model": NAME, "prompt": "abc", "max_tokens": 2}
CHAT = {"model": NAME, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def send(
    running: Running, body: bytes, path: str = "/v1/completions", method: str = "POST", **headers: str
) -> tuple[int, dict[str, Any]]:
    """Any bytes to any path; the status, and the error of the body."""
    address = urlsplit(running.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        assert response.headers["content-type"] == "application/json"
        answer = json.loads(response.read())
    finally:
        connection.close()
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    return response.status, answer["error"]


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"n": 2}, "n", "1"),
        ({"best_of": 3}, "best_of", "1"),
        ({"logprobs": 0}, "logprobs", "not supported"),
        ({"echo": True}, "echo", "False"),
        ({"suffix": "x"}, "suffix", "not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        ({"presence_penalty": 0.5}, "presence_penalty", "0"),
        ({"beam_width": 5}, "beam_width", "not supported"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"temperature": "hot"}, "temperature", "number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"top_k": -1}, "top_k", "0"),
        ({"repetition_penalty": 0}, "repetition_penalty", "0"),
        ({"max_tokens": 0}, "max_tokens", "1"),
        ({"max_tokens": 1.5}, "max_tokens", "integer"),
        ({"seed": 1 << 63}, "seed", ""),
        ({"stop": ["a"] * 5}, "stop", "4"),
        ({"stop": ""}, "stop.0", "1 character"),
        ({"stream_options": {"include_usage": True}}, None, "streams only"),
        ({"prompt": ["a", "b"]}, "prompt", "one text"),
        ({"prompt": [1.5]}, "prompt", "one text"),
        ({"prompt": [-1]}, "prompt", "one text"),
        ({"prompt": [True]}, "prompt", "one text"),
        ({"prompt": None}, "prompt", "missing"),
        ({"prompt": [5000]}, None, "does not know"),
        ({"prompt": []}, None, "does not know"),
        ({"model": None}, "model", "missing"),
    ],
)
def test_what_a_completion_cannot_be(one: Running, changes: dict[str, Any], param: str | None, words: str) -> None:
    status, error = send(one, json.dumps({**COMPLETION, **changes}).encode())
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"logprobs": True}, "logprobs", "False"),
        ({"response_format": {"type": "json_object"}}, "response_format.type", "text"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "user"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content", "text"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages.0.content", "string"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, None, "begin with the user"),
        ({"max_completion_tokens": 3}, None, "exclude each other"),
        ({"prompt": "abc"}, "prompt", "not supported"),
    ],
)
def test_what_a_chat_cannot_be(one: Running, changes: dict[str, Any], param: str | None, words: str) -> None:
    status, error = send(one, json.dumps({**CHAT, **changes}).encode(), "/v1/chat/completions")
    assert (status, error["param"]) == (400, param)
    assert words in error["message"]


@pytest.fixture(scope="module")
def one() -> Any:
    """A server that all tests of bad requests share, and that serves as if nothing had been at the end."""

    with running(HashEngine(context=100), Limits(max_body=5000)) as server:
        yield server
        assert server.client().completions.create(**COMPLETION).choices[0].finish_reason == "length"
        assert server.engine.free == server.engine.slots


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"model": ', b"\xff\xfe", b"[]", b'"text"', b"null", b"[" * 4000, b'{"model": NaN}', b"\x00"],
    ids=repr,
)
def test_what_is_no_request(one: Running, body: bytes) -> None:
    status, error = send(one, body)
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert error["message"]


def test_infinities_are_refused(one: Running) -> None:
    body = json.dumps({**COMPLETION, "temperature": float("inf")}).encode()
    assert send(one, body)[1]["param"] == "temperature"
    assert send(one, body.replace(b"Infinity", b"NaN"))[1]["param"] == "temperature"


def test_a_body_must_say_that_it_is_json(one: Running) -> None:
    body = json.dumps(COMPLETION).encode()
    status, error = send(one, body, **{"Content-Type": "text/plain"})
    assert status == 400
    assert "application/json" in error["message"]


def test_prompts_that_are_too_long(one: Running) -> None:
    client = one.client()
    with pytest.raises(openai.BadRequestError, match=r"the prompt has 101 tokens, .* context is 100") as raised:
        client.completions.create(model=NAME, prompt="a" * 101)
    assert raised.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="60 tokens of prompt and 41 of answer") as raised:
        client.chat.completions.create(
            model=NAME, messages=[{"role": "user", "content": "a" * 43}], max_tokens=41, stream=True
        )
    assert raised.value.code == "context_length_exceeded"
    assert client.completions.create(model=NAME, prompt="a" * 99).choices[0].finish_reason == "length"


def test_a_prompt_that_the_engine_refuses_gets_its_status_even_as_a_stream(one: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="does not know"):
        one.client().completions.create(model=NAME, prompt=[5000], stream=True)


def test_unknown_models(one: Running) -> None:
    client = one.client()
    with pytest.raises(openai.NotFoundError, match="no model 'gpt'") as raised:
        client.completions.create(model="gpt", prompt="a")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("a/b")


def test_unknown_paths_and_methods(one: Running) -> None:
    assert send(one, b"{}", "/v1/embeddings")[0] == 404
    assert send(one, b"", "/v1/completions", "GET")[0] == 405


def test_bodies_that_are_too_large(one: Running) -> None:
    with pytest.raises(openai.APIStatusError, match="more than 5000 bytes") as raised:
        one.client().completions.create(model=NAME, prompt="a" * 2_000_000)
    assert raised.value.status_code == 413


def test_bodies_that_do_not_tell_how_large_they_are(one: Running) -> None:
    address = urlsplit(one.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    chunks = (b" " * 1000 for _ in range(10))
    connection.request("POST", "/v1/completions", chunks, {"Content-Type": "application/json"}, encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["error"]["code"] == "body_too_large"
    connection.close()


def test_the_key(serve: Start) -> None:
    running = serve(limits=Limits(api_key="open"))
    with pytest.raises(openai.AuthenticationError, match="wrong") as raised:
        running.client("opem").models.list()
    assert raised.value.code == "invalid_api_key"
    assert running.client("open").completions.create(**COMPLETION).choices[0].text
    for path in ("/v1/models", "/metrics", "/openapi.json"):
        assert send(running, b"", path, "GET")[0] == 401
    assert send(running, json.dumps(COMPLETION).encode(), Authorization="Bearer s\xe9same")[0] == 401
    with urllib.request.urlopen(f"{running.url}/health") as response:
        assert response.status == 200
