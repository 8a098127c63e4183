"""What stands before the routes: counting, the key, and the size of a body."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.serve.errors import CLIENT_LEFT, ApiError
from octavo.serve.metrics import Metrics


class Counting:
    """Counts every request by its route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = CLIENT_LEFT

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            # Paths that are no route are left to whoever asks, so they share one label.
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(route, str(status)).inc()


class KeyCheck:
    """Lets only those in who know the key; whether the server is alive anyone may ask."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            given = Headers(scope=scope).get("authorization", "")
            # Headers are decoded as Latin-1; encoded again they are the bytes that were sent.
            if not hmac.compare_digest(given.encode("latin-1"), self._expected):
                problem = "the API key is wrong" if given else "an API key is needed: Authorization: Bearer KEY"
                await ApiError(401, problem, "invalid_api_key").response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses bodies of more than `limit` bytes, at once if their length is told, else as soon as they exceed it."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._error = ApiError(413, f"the body has more than {limit} bytes", "body_too_large")
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length) > self._limit:
            await self._error.response()(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                raise self._error
            return message

        await self._app(scope, counted, send)
