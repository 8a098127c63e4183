"""Servers that end with the test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hash_engine import HashEngine
from hash_server import Running, running

from octavo.serve.application import Limits


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """Starts servers: `serve(engine, limits)`."""
    with contextlib.ExitStack() as stack:

        def start(engine: HashEngine | None = None, limits: Limits = Limits(), **options: Any) -> Running:
            return stack.enter_context(running(engine or HashEngine(), limits, **options))

        yield start
