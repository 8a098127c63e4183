"""The server as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI

from octavo.base.errors import OctavoError
from octavo.serve.errors import answer_errors
from octavo.serve.gates import BodyLimit, Counting, KeyCheck
from octavo.serve.metrics import Metrics
from octavo.serve.opening import ServedModel
from octavo.serve.routes import router
from octavo.serve.scheduler import LONGEST_WAIT
from octavo.serve.service import Service


@dataclass(frozen=True)
class Limits:
    """What the server lets in, and how long it keeps what it has.

    Attributes:
        queue: requests that may wait when every slot is taken; more get 429.
        max_body: bytes of a request's body; more get 413.
        api_key: what clients must send; None lets in everyone who reaches the server.
        wait: seconds that text of one of several streams may wait for more of it, to go out in one piece.

    Raises:
        OctavoError: the key is empty.
    """

    queue: int = 64
    max_body: int = 1 << 20
    api_key: str | None = None
    wait: float = LONGEST_WAIT

    def __post_init__(self) -> None:
        if self.api_key == "":
            raise OctavoError("the API key is empty", "give one, or leave out --api-key")


def create_application(model: ServedModel, limits: Limits) -> FastAPI:
    """The application that serves a model; its engine runs from the application's start to its shutdown."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = service = Service(model, limits.queue, limits.wait, metrics)
        try:
            yield
        finally:
            service.close()

    # The pages that FastAPI makes of itself load scripts from elsewhere.
    app = FastAPI(title="octavo", lifespan=lifespan, docs_url=None, redoc_url=None)
    # The last one added is the first that a request meets.
    app.add_middleware(BodyLimit, limit=limits.max_body)
    if limits.api_key is not None:
        app.add_middleware(KeyCheck, key=limits.api_key)
    app.add_middleware(Counting, metrics=metrics)
    app.include_router(router)
    answer_errors(app)
    return app
