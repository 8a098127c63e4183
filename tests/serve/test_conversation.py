"""Conversations: history, early ends, and Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing

import pytest
from hash_engine import HashEngine, NumberTokenizer, answer_of

from octavo.base.errors import ModelError
from octavo.cli.chat import _print_answer
from octavo.decoding.engine import Emitted
from octavo.decoding.sampling import Sampling
from octavo.serve.conversation import Conversation
from octavo.serve.opening import ServedModel

TOKENIZER = NumberTokenizer()


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Processes in the background begin with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def talk(engine: HashEngine, tokens: int | None = 5, system: str | None = None, seed: int = 0) -> Conversation:
    model = ServedModel("hashes", TOKENIZER, engine, engine.context, frozenset())
    return Conversation(model, Sampling(temperature=1.0, seed=seed), tokens, system)


def expected(text: str, tokens: int = 5, seed: int = 0) -> str:
    return TOKENIZER.decode(answer_of(TOKENIZER(text).input_ids, Sampling(temperature=1.0, seed=seed), tokens))


def test_the_history_goes_along() -> None:
    conversation = talk(HashEngine(1), system="be brief")
    first = "".join(conversation.answer("hi"))
    assert first == expected("<system>be brief<user>hi<assistant>")
    second = "".join(conversation.answer("and?"))
    assert second == expected(f"<system>be brief<user>hi<assistant>{first}<user>and?<assistant>", seed=1)
    conversation.reset()
    assert conversation.messages == [{"role": "system", "content": "be brief"}]
    assert "".join(conversation.answer("hi")) == first


def test_an_answer_that_is_left_stays_as_far_as_it_came() -> None:
    engine = HashEngine(1)
    conversation = talk(engine, tokens=None)
    with closing(conversation.answer("hi")) as pieces:
        said = next(pieces) + next(pieces)
    assert conversation.messages[-1] == {"role": "assistant", "content": said}
    assert engine.free == 1
    assert "".join(conversation.answer("more")).count(" ") > 2


def test_a_conversation_that_is_too_long_is_told_and_unchanged() -> None:
    conversation = talk(HashEngine(1, context=40))
    assert "".join(conversation.answer("hi"))
    before = conversation.messages
    with pytest.raises(ModelError, match=r"has \d+ tokens, and the context is 40"):
        next(conversation.answer("and what else is there?"))
    assert conversation.messages == before


class Interrupting(HashEngine):
    """Someone presses Ctrl-C during the third step."""

    def step(self) -> list[Emitted]:
        if self.steps == 2:
            signal.raise_signal(signal.SIGINT)
        return super().step()


def test_an_interrupt_ends_the_answer_and_keeps_the_conversation(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    engine = Interrupting(1)
    conversation = talk(engine, tokens=50)
    _print_answer(conversation, "hi", interactive=True)
    assert signal.getsignal(signal.SIGINT) is before
    said = capsys.readouterr().out
    assert said == expected("<user>hi<assistant>", 3) + "\n"
    assert conversation.messages[-1]["content"] == said.removesuffix("\n")
    assert engine.free == 1


def test_a_second_interrupt_ends_everything() -> None:
    class Twice(Interrupting):
        def step(self) -> list[Emitted]:
            super().step()
            signal.raise_signal(signal.SIGINT)
            return super().step()

    engine = Twice(1)
    engine.steps = 2
    with pytest.raises(KeyboardInterrupt):
        _print_answer(talk(engine, tokens=50), "hi", interactive=True)
    assert engine.free == 1
