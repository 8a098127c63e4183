"""Full queues, clients that leave or do not read, failing engines, shutdown, and what the counters say of it."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

import openai
import pytest
from hash_engine import HashEngine, NumberTokenizer, answer_of
from hash_server import NAME, Running

from octavo.decoding.sampling import Sampling
from octavo.serve.application import Limits

Start = Callable[..., Running]


@pytest.fixture
def serve(serve: Start) -> Start:
    """No token ends an answer here, so that answers are as long as they are asked to be."""
    return partial(serve, stop_tokens=frozenset())


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def metric(running: Running, line: str) -> float:
    with urllib.request.urlopen(f"{running.url}/metrics") as response:
        text = response.read().decode()
    return next((float(row.split()[-1]) for row in text.splitlines() if row.startswith(f"{line} ")), 0.0)


def greedy(prompt: str, tokens: int) -> str:
    return NumberTokenizer().decode(answer_of(NumberTokenizer()(prompt).input_ids, Sampling(), tokens))


def open_stream(running: Running, prompt: str, tokens: int) -> socket.socket:
    """A request for a stream by a client that does not read yet."""
    address = urlsplit(running.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((address.hostname, address.port))
    body = json.dumps({"model": NAME, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    connection.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
    return connection


def read_all(connection: socket.socket) -> str:
    """What comes until the server closes the connection."""
    with connection, connection.makefile(newline="") as file:
        return file.read()


def test_a_full_queue_answers_429(serve: Start) -> None:
    engine = HashEngine(slots=1)
    engine.gate.clear()
    running = serve(engine, Limits(queue=1))
    held = [open_stream(running, "abc", 3) for _ in range(2)]
    until(lambda: metric(running, "octavo_queue_length") + metric(running, "octavo_active_slots") == 2)
    with pytest.raises(openai.RateLimitError) as raised:
        running.client().completions.create(model=NAME, prompt="abc", max_tokens=3)
    assert raised.value.code == "rate_limit_exceeded"
    assert raised.value.response.headers["retry-after"]
    engine.gate.set()
    for connection in held:
        assert "data: [DONE]" in read_all(connection)
    running.client().completions.create(model=NAME, prompt="abc", max_tokens=3)
    assert metric(running, 'octavo_requests_total{route="/v1/completions",status="429"}') == 1


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(serve: Start, stream: bool) -> None:
    engine = HashEngine(slots=1, context=1_000_000, delay=0.001)
    running = serve(engine, Limits(queue=1))
    client = running.client()
    if stream:
        answer = client.completions.create(model=NAME, prompt="abc", max_tokens=900_000, temperature=0, stream=True)
        next(iter(answer))
        answer.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.2).completions.create(
                model=NAME, prompt="abc", max_tokens=900_000, temperature=0
            )
    until(lambda: engine.free == 1)
    assert engine.released == 1
    after = client.completions.create(model=NAME, prompt="abc", max_tokens=3, temperature=0)
    assert after.choices[0].text == greedy("abc", 3)
    assert metric(running, 'octavo_generations_total{ending="cancelled"}') == 1
    # A stream has begun with 200; who waits for the whole is gone before there is a status.
    if not stream:
        assert metric(running, 'octavo_requests_total{route="/v1/completions",status="499"}') == 1


def test_a_client_that_leaves_the_queue_is_never_served(serve: Start) -> None:
    engine = HashEngine(slots=1)
    engine.gate.clear()
    running = serve(engine, Limits(queue=1))
    first = open_stream(running, "abc", 3)
    until(lambda: metric(running, "octavo_active_slots") == 1)
    second = open_stream(running, "abc", 3)
    until(lambda: metric(running, "octavo_queue_length") == 1)
    second.close()
    until(lambda: metric(running, 'octavo_requests_total{route="/v1/completions",status="499"}') == 1)
    engine.gate.set()
    assert "[DONE]" in read_all(first)
    until(lambda: metric(running, 'octavo_generations_total{ending="cancelled"}') == 1)
    assert engine.steps == 3


def test_a_slow_reader_holds_up_nobody_and_loses_nothing(serve: Start) -> None:
    # More than the buffers between server and client hold.
    tokens = 16_000
    running = serve(HashEngine(slots=2, context=20_000))
    slow = open_stream(running, "slow", tokens)
    client = running.client()
    for _ in range(3):
        quick = client.completions.create(model=NAME, prompt="quick", max_tokens=50, temperature=0)
        assert quick.choices[0].text == greedy("quick", 50)
    # The slow one's answer is made although nobody reads it, and its slot is given back.
    until(lambda: running.engine.free == 2)
    lines = [line for line in read_all(slow).splitlines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    # Compared apart from the assertion, which would spell out how two long texts differ.
    same = "".join(chunk["choices"][0]["text"] for chunk in chunks) == greedy("slow", tokens)
    assert same


def test_a_failing_engine_is_told_to_everyone(serve: Start, caplog: pytest.LogCaptureFixture) -> None:
    # So slow that its answer is not at an end before it fails.
    engine = HashEngine(slots=2, delay=0.001)
    running = serve(engine)
    client = running.client()
    stream = iter(client.completions.create(model=NAME, prompt="abc", max_tokens=4000, temperature=0, stream=True))
    next(stream)
    engine.failure = ZeroDivisionError("a bug")
    with pytest.raises(openai.APIError, match="the engine failed"):
        list(stream)
    with pytest.raises(openai.InternalServerError, match="the engine failed") as raised:
        client.completions.create(model=NAME, prompt="abc")
    assert raised.value.status_code == 503
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"{running.url}/health")
    assert "a bug" in caplog.text


def test_shutdown_lets_answers_finish(serve: Start) -> None:
    running = serve(HashEngine(slots=1, delay=0.005))
    client = running.client()
    stream = iter(client.completions.create(model=NAME, prompt="abc", max_tokens=100, temperature=0, stream=True))
    text = next(stream).choices[0].text
    running.server.should_exit = True
    for chunk in stream:
        text += chunk.choices[0].text
    assert text == greedy("abc", 100)
    until(lambda: refused(running))


def test_shutdown_ends_what_takes_too_long(serve: Start, caplog: pytest.LogCaptureFixture) -> None:
    running = serve(HashEngine(slots=1, delay=0.005, context=1_000_000))
    running.server.config.timeout_graceful_shutdown = 0
    connection = open_stream(running, "abc", 900_000)
    until(lambda: running.engine.free == 0)
    running.server.should_exit = True
    assert "[DONE]" not in read_all(connection)
    until(lambda: not any(thread.name == "octavo-engine" for thread in threading.enumerate()))


def refused(running: Running) -> bool:
    address = urlsplit(running.url)
    with socket.socket() as probe:
        return probe.connect_ex((address.hostname, address.port)) != 0


def test_health_and_counters(serve: Start) -> None:
    running = serve()
    with urllib.request.urlopen(f"{running.url}/health") as response:
        assert json.load(response) == {"status": "ok"}
    running.client().completions.create(model=NAME, prompt="abcd", max_tokens=5, temperature=0)
    expected = {
        'octavo_requests_total{route="/v1/completions",status="200"}': 1,
        "octavo_prompt_tokens_total": 4,
        "octavo_generated_tokens_total": 5,
        "octavo_queue_length": 0,
        "octavo_active_slots": 0,
        "octavo_time_to_first_token_seconds_count": 1,
        "octavo_step_seconds_count": 5,
        'octavo_generations_total{ending="length"}': 1,
    }
    assert {line: metric(running, line) for line in expected} == expected
