"""A conversation with a model, one answer at a time."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace

from octavo.base.errors import ModelError
from octavo.decoding.sampling import Sampling
from octavo.decoding.text import TextStream
from octavo.serve.opening import ServedModel
from octavo.serve.prompts import conversation_tokens


class Conversation:
    """What was said so far, and who goes on with it.

    Args:
        model: has a free slot whenever an answer is asked for.
        sampling: how tokens are drawn; each answer has its own seed, counted up from this one.
        tokens: at most so many an answer; None for what is left of the context.
        system: what the model is told before all else.
    """

    def __init__(
        self, model: ServedModel, sampling: Sampling, tokens: int | None = None, system: str | None = None
    ) -> None:
        self._model = model
        self._sampling = sampling
        self._tokens = tokens
        self._beginning = [] if system is None else [{"role": "system", "content": system}]
        self._turns: list[dict[str, str]] = []

    @property
    def messages(self) -> list[dict[str, str]]:
        """All turns, with `role` and `content`."""
        return [*self._beginning, *self._turns]

    def reset(self) -> None:
        """Forget what was said; what the model was told before stays."""
        self._turns.clear()

    def answer(self, text: str) -> Generator[str]:
        """Say something, and yield the answer in pieces, an empty one for a step that makes no text.

        What was yielded becomes part of the conversation, also where the caller closes the iterator before the end.

        Raises:
            ModelError: the conversation is longer than the context, or the chat template refuses it.
        """
        question = {"role": "user", "content": text}
        prompt = conversation_tokens(self._model.tokenizer, [*self.messages, question])
        left = self._model.context - len(prompt)
        if left < 1:
            raise ModelError(
                f"the conversation has {len(prompt)} tokens, and the context is {self._model.context}",
                "begin a new one, or give the model more context",
            )
        sampling = replace(self._sampling, seed=self._sampling.seed + len(self._turns) // 2)
        said: list[str] = []
        try:
            for piece in self._pieces(prompt, sampling, min(left, self._tokens or left)):
                said.append(piece)
                yield piece
        finally:
            self._turns += [question, {"role": "assistant", "content": "".join(said)}]

    def _pieces(self, prompt: list[int], sampling: Sampling, tokens: int) -> Iterator[str]:
        engine, stops = self._model.engine, self._model.stop_tokens
        text = TextStream(self._model.tokenizer)
        slot = engine.admit(prompt, sampling, tokens, stops)
        finished = False
        try:
            while not finished:
                emitted = next((item for item in engine.step() if item.slot == slot), None)
                finished = emitted is not None and emitted.finish is not None
                piece = "" if emitted is None or emitted.finish == "stop" else text.push(emitted.token)
                yield piece + text.finish() if finished else piece
        finally:
            if not finished:
                engine.release(slot)
