"""A real server on a free port, over an engine of hashes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import openai
import pytest
from hash_engine import HashEngine, NumberText, NumberTokenizer

from octavo.serve.application import Limits, create_application
from octavo.serve.running import Server, address_of, bind
from octavo.serve.service import ServedModel

NAME = "hashes"
STOP = 7


@dataclass
class Running:
    """A server, its engine, and clients of it."""

    url: str
    engine: HashEngine
    server: Server

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30)


@contextlib.contextmanager
def running(engine: HashEngine, limits: Limits) -> Iterator[Running]:
    """A server in a thread, for as long as the context lasts."""
    model = ServedModel(NAME, NumberTokenizer(), engine, engine.context, frozenset({STOP}), NumberText)
    started = threading.Event()
    server = Server(create_application(model, limits), started.set, grace=5)
    bound = bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_on, args=(bound,))
    url = address_of(bound)
    thread.start()
    try:
        assert started.wait(30)
        yield Running(url, engine, server)
    finally:
        engine.gate.set()
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """Starts servers: `serve(engine, limits)`; they end with the test."""
    with contextlib.ExitStack() as stack:

        def start(engine: HashEngine | None = None, limits: Limits = Limits()) -> Running:
            context: AbstractContextManager[Running] = running(engine or HashEngine(), limits)
            return stack.enter_context(context)

        yield start
