"""One request's answer as it comes, seen from the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request

from octavo.decoding.text import TextStream
from octavo.serve.errors import CLIENT_LEFT, ApiError
from octavo.serve.replies import Usage
from octavo.serve.scheduler import Event, Failure, Job, Piece, Receiver, Scheduler

T = TypeVar("T")


def post_to(loop: asyncio.AbstractEventLoop, events: list[tuple[Receiver, Event]]) -> None:
    """Hand the events of a step over to the loop's thread, which is woken once for all of them."""
    loop.call_soon_threadsafe(_distribute, events)


def _distribute(events: list[tuple[Receiver, Event]]) -> None:
    for receive, event in events:
        receive(event)


class Answer:
    """A request of the scheduler; whoever opens one closes it, read to its end or not.

    Raises:
        QueueFullError: too many requests are waiting.
        EngineStoppedError: no request will be served any more.
    """

    def __init__(self, scheduler: Scheduler, job: Job, text: TextStream) -> None:
        # Bounded by what it may receive: an event a token, and a failure.
        self._inbox: asyncio.Queue[Event] = asyncio.Queue()
        self._prompt_tokens = len(job.prompt)
        self._scheduler = scheduler
        self._stream = scheduler.submit(job, text, self._inbox.put_nowait)

    async def next(self) -> Piece:
        """What has come since the last call, in one piece; the last has a `finish`.

        Raises:
            Exception: why the request failed.
        """
        text = ""
        event = await self._inbox.get()
        while True:
            if isinstance(event, Failure):
                raise event.error
            text += event.text
            if event.finish is not None or self._inbox.empty():
                return Piece(text, event.tokens, event.finish)
            event = self._inbox.get_nowait()

    async def rest(self) -> Piece:
        """All that has not been read yet, when it is there."""
        piece = await self.next()
        while piece.finish is None:
            following = await self.next()
            piece = Piece(piece.text + following.text, following.tokens, following.finish)
        return piece

    def usage(self, last: Piece) -> Usage:
        """The tokens of the request, up to a piece."""
        return Usage(self._prompt_tokens, last.tokens)

    def close(self) -> None:
        """Give the slot back, or the place in the queue."""
        self._scheduler.cancel(self._stream)


async def unless_left(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, given up as soon as the client leaves.

    Raises:
        ApiError: the client has left; nobody will read it.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(CLIENT_LEFT, "the client has left")
        return task.result()
    finally:
        task.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
