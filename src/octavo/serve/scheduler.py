"""One thread owns the engine: between steps it admits and cancels requests, and after each it hands out what was made.

Whoever asks never waits for the engine and never makes it wait. A request comes in through a bounded queue; its pieces
go out through a function that only puts them down somewhere. A reader that is slow therefore holds up nobody: what it
has not read lies in memory, and that is at most the tokens it asked for.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from octavo.base.errors import OctavoError
from octavo.decoding.engine import Emitted
from octavo.decoding.sampling import Sampling
from octavo.decoding.text import TextStream
from octavo.serve.metrics import Metrics
from octavo.serve.stepping import SteppingEngine

Finish = Literal["stop", "length"]

log = logging.getLogger(__name__)

TURN = 0.004
"""Seconds that a stream's text waits for each other stream: sending a piece costs server and client processor time."""

LONGEST_WAIT = 0.1
"""Seconds that text waits at most by default; a reader sees no pause."""


class QueueFullError(OctavoError):
    """As many requests as may wait are waiting."""


class EngineStoppedError(OctavoError):
    """The engine has failed or has been shut down."""


@dataclass(frozen=True)
class Job:
    """What a request asks of the engine.

    Attributes:
        prompt: its tokens.
        sampling: how tokens are drawn.
        max_new_tokens: at most so many are made.
        stop_tokens: any of them ends the answer and is no part of its text.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    max_new_tokens: int
    stop_tokens: frozenset[int]


@dataclass(frozen=True)
class Piece:
    """What one step adds to an answer, or several together.

    Attributes:
        text: new text, complete characters only; empty only with a `finish`.
        tokens: tokens made so far, the one that ended the answer among them.
        finish: why the answer ends here, None if it goes on.
    """

    text: str
    tokens: int
    finish: Finish | None


@dataclass(frozen=True)
class Failure:
    """The last thing that comes of a request that failed."""

    error: Exception


Event = Piece | Failure
Receiver = Callable[[Event], None]
# Hands all events of one step to their receivers.
Post = Callable[[list[tuple[Receiver, Event]]], None]


@dataclass(eq=False)
class Stream:
    """A request on its way through the scheduler.

    Attributes:
        unsent: text that waits for more, to go out in one piece with it.
        sent: when the last piece went out.
    """

    job: Job
    text: TextStream
    receive: Receiver
    submitted: float
    tokens: int = 0
    unsent: str = ""
    sent: float = -math.inf
    cancelled: bool = False


class Scheduler:
    """Runs an engine in a thread of its own and shares its slots among requests, in the order they come.

    Args:
        engine: nobody else may touch it from now on.
        queue: so many requests may wait when every slot is taken.
        post: called on the engine's thread with the events of a step; must return at once.
        metrics: where tokens, endings and times are counted.
        wait: seconds that text of one of several streams may wait for more of it (see `TURN`).
    """

    def __init__(
        self, engine: SteppingEngine, queue: int, post: Post, metrics: Metrics, wait: float = LONGEST_WAIT
    ) -> None:
        self._engine = engine
        self._limit = engine.free + queue
        self._post = post
        self._metrics = metrics
        self._longest = wait
        self._wake = threading.Condition()
        self._waiting: deque[Stream] = deque()
        self._active: dict[int, Stream] = {}
        self._open = 0
        self._end: EngineStoppedError | None = None
        self._thread = threading.Thread(target=self._run, name="octavo-engine", daemon=True)
        metrics.waiting.set_function(lambda: len(self._waiting))
        metrics.active.set_function(lambda: len(self._active))
        self._thread.start()

    @property
    def running(self) -> bool:
        """False once the engine has failed or the scheduler was closed."""
        return self._end is None

    def check_room(self) -> None:
        """Raise what `submit` would raise now, before work is spent on what it needs.

        Raises:
            QueueFullError: too many requests are waiting.
            EngineStoppedError: no request will be served any more.
        """
        if self._end is not None:
            raise self._end
        if self._open >= self._limit:
            raise QueueFullError(f"{self._open} requests are being served or waiting", "try again later")

    def submit(self, job: Job, text: TextStream, receive: Receiver) -> Stream:
        """Put a request into the queue; its pieces go to `receive`, the last one with a `finish`, or a failure.

        Raises:
            QueueFullError: too many requests are waiting.
            EngineStoppedError: no request will be served any more.
        """
        with self._wake:
            self.check_room()
            stream = Stream(job, text, receive, time.perf_counter())
            self._open += 1
            self._waiting.append(stream)
            self._wake.notify()
        return stream

    def cancel(self, stream: Stream) -> None:
        """Drop a request, wherever it is: it gets no further event, and its slot is free before the next step."""
        with self._wake:
            stream.cancelled = True
            self._wake.notify()

    def close(self) -> None:
        """Drop every request and end the thread; returns when the step that is running is done."""
        with self._wake:
            self._end = self._end or EngineStoppedError("the server is shutting down", "try again later")
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._prepare():
                self._step()
        except Exception as error:
            log.exception("the engine failed; no further request is served")
            self._end = EngineStoppedError(f"the engine failed ({type(error).__name__}: {error})", "restart the server")
        with self._wake:
            unserved = [*self._active.values(), *self._waiting]
            self._active.clear()
            self._waiting.clear()
            end = self._end
        if end is not None:
            self._post([(stream.receive, Failure(end)) for stream in unserved if not stream.cancelled])

    def _prepare(self) -> bool:
        """Wait for work, free the slots of who has left, admit who waits; False when the scheduler is closed."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._active or self._end)
            if self._end is not None:
                return False
            left = [slot for slot, stream in self._active.items() if stream.cancelled]
            kept = [stream for stream in self._waiting if not stream.cancelled]
            for _ in range(len(left) + len(self._waiting) - len(kept)):
                self._leave("cancelled")
            self._waiting = deque(kept)
        for slot in left:
            self._engine.release(slot)
            del self._active[slot]
        while self._engine.free and self._waiting:
            self._admit()
        return True

    def _admit(self) -> None:
        with self._wake:
            stream = self._waiting.popleft()
        job = stream.job
        try:
            slot = self._engine.admit(job.prompt, job.sampling, job.max_new_tokens, job.stop_tokens)
        except OctavoError as error:
            with self._wake:
                self._leave("failed")
            self._post([(stream.receive, Failure(error))])
            return
        except BaseException:
            # Back among those that are told of the engine's end.
            self._waiting.appendleft(stream)
            raise
        self._active[slot] = stream
        self._metrics.prompt_tokens.inc(len(job.prompt))

    def _step(self) -> None:
        if not self._active:
            return
        began = time.perf_counter()
        made = self._engine.step()
        now = time.perf_counter()
        self._metrics.step_seconds.observe(now - began)
        self._metrics.generated_tokens.inc(len(made))
        events: list[tuple[Receiver, Event]] = []
        wait = min(TURN * (len(self._active) - 1), self._longest)
        for emitted in made:
            stream = self._active[emitted.slot]
            if stream.tokens == 0:
                self._metrics.first_token_seconds.observe(now - stream.submitted)
            piece = _piece(stream, emitted)
            if piece.finish is not None:
                self._end_of(emitted.slot, emitted.finish, piece.finish)
            due = piece.finish is not None or (piece.text and now - stream.sent >= wait)
            if due and not stream.cancelled:
                events.append((stream.receive, piece))
                stream.unsent, stream.sent = "", now
        self._post(events)

    def _end_of(self, slot: int, engine_finish: Finish | None, finish: Finish) -> None:
        del self._active[slot]
        if engine_finish is None:
            # The engine knows nothing of stop strings.
            self._engine.release(slot)
        with self._wake:
            self._leave(finish)

    def _leave(self, ending: str) -> None:
        self._open -= 1
        self._metrics.endings.labels(ending).inc()


def _piece(stream: Stream, emitted: Emitted) -> Piece:
    """What is to be sent of a stream that has a new token."""
    stream.tokens += 1
    # A stop token is no part of the text.
    if emitted.finish != "stop":
        stream.unsent += stream.text.push(emitted.token)
    if emitted.finish is not None:
        stream.unsent += stream.text.finish()
    return Piece(stream.unsent, stream.tokens, "stop" if stream.text.stopped else emitted.finish)
