"""Answers by server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from octavo.serve.answers import Answer
from octavo.serve.errors import api_error
from octavo.serve.replies import Body, Reply
from octavo.serve.scheduler import Piece


class EventStream(StreamingResponse):
    """Sends an answer piece by piece, and closes it when it is sent or the client has left.

    Args:
        answer: what is sent.
        first: its first piece, which has been read already.
        reply: how its chunks look.
        include_usage: end with a chunk that counts tokens.
    """

    def __init__(self, answer: Answer, first: Piece, reply: Reply, include_usage: bool) -> None:
        self._answer = answer
        super().__init__(
            _events(answer, first, reply, include_usage),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.close()


async def _events(answer: Answer, piece: Piece, reply: Reply, include_usage: bool) -> AsyncIterator[bytes]:
    # Clients that ask for counts are told in every other chunk that there are none yet.
    extra: Body = {"usage": None} if include_usage else {}
    for body in reply.opening():
        yield _event({**body, **extra})
    try:
        while piece.finish is None:
            yield _event({**reply.chunk(piece.text, None), **extra})
            piece = await answer.next()
    except Exception as error:
        # The status has been sent; what is left is an event of the error's shape.
        yield _event(api_error(error).body())
        return
    if piece.text:
        yield _event({**reply.chunk(piece.text, None), **extra})
    yield _event({**reply.chunk("", piece.finish), **extra})
    if include_usage:
        yield _event(reply.counts(answer.usage(piece)))
    yield b"data: [DONE]\n\n"


def _event(body: Body) -> bytes:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
