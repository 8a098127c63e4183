"""A real server on a free port, over an engine of hashes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import openai
from hash_engine import HashEngine, NumberTokenizer

from octavo.serve.application import Limits, create_application
from octavo.serve.opening import ServedModel
from octavo.serve.running import Server, address_of, bind

NAME = "hashes"
STOP = 7


@dataclass
class Running:
    """A server, its engine, and clients of it."""

    url: str
    engine: HashEngine
    server: Server
    clients: contextlib.ExitStack

    def client(self, key: str = "none") -> openai.OpenAI:
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=120)
        return self.clients.enter_context(client)


@contextlib.contextmanager
def running(engine: HashEngine, limits: Limits, stop_tokens: frozenset[int] = frozenset({STOP})) -> Iterator[Running]:
    """A server in a thread, for as long as the context lasts."""
    model = ServedModel(NAME, NumberTokenizer(), engine, engine.context, stop_tokens)
    started = threading.Event()
    server = Server(create_application(model, limits), started.set, grace=120)
    bound = bind("127.0.0.1", 0)
    # Connections inherit it: a client that does not read is soon noticed.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    thread = threading.Thread(target=server.serve_on, args=(bound,))
    url = address_of(bound)
    thread.start()
    try:
        assert started.wait(120)
        with contextlib.ExitStack() as clients:
            yield Running(url, engine, server, clients)
    finally:
        engine.gate.set()
        server.should_exit = True
        thread.join(120)
        assert not thread.is_alive()
