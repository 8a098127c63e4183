"""The scheduler alone: nothing is lost or mixed, queues are bounded, and slots come back at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hash_engine import HashEngine, NumberTokenizer, answer_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import LINES

from octavo.base.errors import ModelError
from octavo.decoding.sampling import Sampling
from octavo.decoding.text import TextStream
from octavo.hub.generate import generate
from octavo.hub.text_model import load_text_model
from octavo.serve import scheduler as scheduler_module
from octavo.serve.metrics import Metrics
from octavo.serve.opening import open_model
from octavo.serve.prompts import text_tokens
from octavo.serve.scheduler import (
    EngineStoppedError,
    Event,
    Failure,
    Job,
    Piece,
    QueueFullError,
    Receiver,
    Scheduler,
    Stream,
)
from octavo.serve.stepping import SteppingEngine

SECONDS = 120


def deliver(events: list[tuple[Receiver, Event]]) -> None:
    for receive, event in events:
        receive(event)


@dataclass
class Reader:
    """Collects the events of one request."""

    events: queue.Queue[Event] = field(default_factory=queue.Queue)
    stream: Stream | None = None

    def next(self) -> Event:
        return self.events.get(timeout=SECONDS)

    def all(self) -> list[Piece]:
        pieces = []
        while not pieces or pieces[-1].finish is None:
            piece = self.next()
            assert isinstance(piece, Piece), piece
            pieces.append(piece)
        assert self.events.empty()
        return pieces

    def text(self) -> str:
        return "".join(piece.text for piece in self.all())


Start = Callable[..., Scheduler]


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[tuple[Scheduler, SteppingEngine]] = []

    def begin(engine: SteppingEngine, waiting: int = 100, **options: float) -> Scheduler:
        scheduler = Scheduler(engine, waiting, deliver, Metrics(), **options)
        made.append((scheduler, engine))
        return scheduler

    yield begin
    for scheduler, engine in made:
        if isinstance(engine, HashEngine):
            engine.gate.set()
        scheduler.close()


def ask(scheduler: Scheduler, job: Job, stops: tuple[str, ...] = ()) -> Reader:
    reader = Reader()
    reader.stream = scheduler.submit(job, TextStream(NumberTokenizer(), stops), reader.events.put)
    return reader


def job(prompt: tuple[int, ...] = (1, 2, 3), tokens: int = 8, seed: int = 0, stop: frozenset[int] = frozenset()) -> Job:
    return Job(prompt, Sampling(temperature=1.0, seed=seed), tokens, stop)


def expected(job: Job) -> str:
    return NumberTokenizer().decode(answer_of(job.prompt, job.sampling, job.max_new_tokens, job.stop_tokens))


JOBS = st.builds(
    job,
    prompt=st.lists(st.integers(0, 999), min_size=1, max_size=4).map(tuple),
    tokens=st.integers(1, 12),
    seed=st.integers(0, 3),
    stop=st.frozensets(st.integers(0, 999), max_size=100),
)


@settings(max_examples=25)
@given(jobs=st.lists(st.tuples(JOBS, st.booleans()), max_size=30), slots=st.integers(1, 5))
def test_every_answer_is_that_of_an_engine_of_its_own(jobs: list[tuple[Job, bool]], slots: int) -> None:
    engine = HashEngine(slots)
    scheduler = Scheduler(engine, len(jobs), deliver, Metrics())
    readers = [(ask(scheduler, job), job, leaves) for job, leaves in jobs]
    for reader, _, leaves in readers:
        if leaves and reader.stream is not None:
            scheduler.cancel(reader.stream)
    for reader, job, leaves in readers:
        if not leaves:
            pieces = reader.all()
            made = answer_of(job.prompt, job.sampling, job.max_new_tokens, job.stop_tokens)
            assert "".join(piece.text for piece in pieces) == NumberTokenizer().decode(made)
            assert pieces[-1].finish == ("length" if len(made) == job.max_new_tokens else "stop")
            assert pieces[-1].tokens == len(made) + (pieces[-1].finish == "stop")
    scheduler.close()


def test_requests_are_served_in_the_order_they_came(start: Start) -> None:
    engine = HashEngine(1)
    engine.gate.clear()
    order: list[int] = []
    scheduler = start(engine)
    done = threading.Semaphore(0)
    for number in range(5):

        def receive(event: Event, number: int = number) -> None:
            if isinstance(event, Piece) and event.finish:
                order.append(number)
                done.release()

        scheduler.submit(job(tokens=2), TextStream(NumberTokenizer()), receive)
    engine.gate.set()
    assert all(done.acquire(timeout=SECONDS) for _ in range(5))
    assert order == [0, 1, 2, 3, 4]


def test_the_queue_is_bounded(start: Start) -> None:
    engine = HashEngine(2)
    engine.gate.clear()
    scheduler = start(engine, waiting=3)
    readers = [ask(scheduler, job(seed=seed)) for seed in range(5)]
    with pytest.raises(QueueFullError, match="5 requests"):
        ask(scheduler, job())
    engine.gate.set()
    assert [reader.text() for reader in readers] == [expected(job(seed=seed)) for seed in range(5)]
    assert ask(scheduler, job()).text() == expected(job())


def test_with_no_queue_only_slots_are_given(start: Start) -> None:
    engine = HashEngine(1)
    engine.gate.clear()
    scheduler = start(engine, waiting=0)
    first = ask(scheduler, job())
    with pytest.raises(QueueFullError):
        ask(scheduler, job())
    engine.gate.set()
    assert first.text() == expected(job())


def test_who_leaves_frees_the_slot_before_the_next_step(start: Start) -> None:
    engine = HashEngine(1)
    scheduler = start(engine)
    leaver = ask(scheduler, job(tokens=4000))
    leaver.next()
    engine.gate.clear()
    follower = ask(scheduler, job(seed=1))
    assert leaver.stream is not None
    scheduler.cancel(leaver.stream)
    steps = engine.steps
    engine.gate.set()
    assert follower.text() == expected(job(seed=1))
    # One step may have been under way when the gate closed and one when the leaver left.
    assert engine.steps - steps <= 8 + 2
    assert engine.released == 1


def test_who_leaves_the_queue_is_never_admitted(start: Start) -> None:
    engine = HashEngine(1)
    engine.gate.clear()
    scheduler = start(engine, waiting=1)
    first, second = ask(scheduler, job()), ask(scheduler, job(seed=1))
    assert second.stream is not None
    scheduler.cancel(second.stream)
    scheduler.cancel(second.stream)
    engine.gate.set()
    assert first.text() == expected(job())
    assert ask(scheduler, job(seed=2)).text() == expected(job(seed=2))
    assert second.events.empty()
    assert engine.released == 0


def test_cancelling_what_is_finished_changes_nothing(start: Start) -> None:
    engine = HashEngine(1)
    scheduler = start(engine, waiting=0)
    for seed in range(3):
        reader = ask(scheduler, job(seed=seed))
        assert reader.text() == expected(job(seed=seed))
        assert reader.stream is not None
        scheduler.cancel(reader.stream)
    assert engine.released == 0


def test_a_stop_string_ends_the_answer_and_frees_the_slot(start: Start) -> None:
    whole = expected(job(tokens=50))
    stop = whole[40:47]
    engine = HashEngine(1)
    reader = ask(start(engine), job(tokens=50), (stop,))
    pieces = reader.all()
    assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish == "stop"
    assert pieces[-1].tokens < 50
    assert engine.released == 1
    assert engine.free == 1


def test_what_was_held_back_for_a_stop_string_comes_at_the_end(start: Start) -> None:
    assert ask(start(HashEngine(1)), job(), ("not in there",)).text() == expected(job())


@pytest.mark.parametrize(("streams", "wait", "joined"), [(1, 1e9, False), (2, 1e9, True), (2, 0, False)])
def test_text_waits_for_more_where_several_streams_are_sent(
    start: Start, monkeypatch: pytest.MonkeyPatch, streams: int, wait: float, joined: bool
) -> None:
    monkeypatch.setattr(scheduler_module, "TURN", 1e9)
    engine = HashEngine(2)
    engine.gate.clear()
    scheduler = start(engine, wait=wait)
    jobs = [job(seed=seed) for seed in range(streams)]
    readers = [ask(scheduler, each) for each in jobs]
    engine.gate.set()
    for reader, each in zip(readers, jobs, strict=True):
        pieces = reader.all()
        assert "".join(piece.text for piece in pieces) == expected(each)
        # The first token is sent at once, the rest with the last.
        assert [piece.tokens for piece in pieces] == ([1, 8] if joined else list(range(1, 9)))


def test_a_refused_prompt_fails_alone(start: Start) -> None:
    scheduler = start(HashEngine(1))
    bad, good = ask(scheduler, job(prompt=(5000,))), ask(scheduler, job())
    failure = bad.next()
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, ModelError)
    assert good.text() == expected(job())


def test_when_the_engine_fails_everyone_is_told(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    engine = HashEngine(1)
    engine.gate.clear()
    scheduler = start(engine)
    readers = [ask(scheduler, job(seed=seed)) for seed in range(3)]
    engine.failure = ZeroDivisionError("a bug")
    engine.gate.set()
    for reader in readers:
        failure = reader.next()
        assert isinstance(failure, Failure)
        assert "ZeroDivisionError: a bug" in str(failure.error)
    assert not scheduler.running
    with pytest.raises(EngineStoppedError, match="a bug"):
        ask(scheduler, job())
    assert "Traceback" in caplog.text


def test_a_real_engine_answers_each_as_if_it_were_alone(start: Start, tiny_llama: Path) -> None:
    model, alone = open_model(tiny_llama, slots=3), load_text_model(tiny_llama)
    scheduler = start(model.engine)
    readers = []
    for number, prompt in enumerate(LINES * 3):
        sampling = Sampling(temperature=number % 2, seed=number, top_p=0.9, repetition_penalty=1.2)
        reader = Reader()
        job = Job(tuple(text_tokens(model.tokenizer, prompt)), sampling, 20 + number, model.stop_tokens)
        scheduler.submit(job, TextStream(model.tokenizer, ("e",) * (number % 3 == 0)), reader.events.put)
        readers.append(reader)
    for number, (prompt, reader) in enumerate(zip(LINES * 3, readers, strict=True)):
        pieces = generate(
            alone,
            prompt,
            20 + number,
            temperature=number % 2,
            seed=number,
            top_p=0.9,
            repetition_penalty=1.2,
            stop=("e",) * (number % 3 == 0),
        )
        assert reader.text() == "".join(pieces)


def test_closing_tells_who_is_still_there(start: Start) -> None:
    engine = HashEngine(1)
    scheduler = start(engine)
    active, waiting = ask(scheduler, job(tokens=4000)), ask(scheduler, job())
    active.next()
    scheduler.close()
    failure = waiting.next()
    assert isinstance(failure, Failure)
    assert "shutting down" in str(failure.error)
    with pytest.raises(EngineStoppedError):
        ask(scheduler, job())
    scheduler.close()
