"""Many requests over one model: each step makes a token for all that have read their prompts, and reads on in others.

Prompts are read in pieces of `DecodingStep.chunk` tokens, as many a step as have no more tokens than a piece together,
so that a long one holds up the others for no longer than a piece takes, and short ones do not wait for each other. What
a request gets does not depend on its company: its generator is its own, and in a step on the CPU no row knows the
others: products with weights and all between them are computed row by row, to the last bit. (Formats without a product
of their own are made dense piece by piece, and may round differently for another number of rows.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from octavo.base.errors import CapacityError, ModelError
from octavo.decoding.sampling import Sampler, Sampling, choose
from octavo.models.decoder import Decoder, check_tokens
from octavo.models.decoder_step import DecodingStep


@dataclass(frozen=True)
class Emitted:
    """A token that a request got.

    Attributes:
        slot: of the request.
        token: the token, which may be one of its stop tokens.
        finish: None if more will come; "stop" after a stop token; "length" after as many tokens as were asked for, or
            where the context is full. With the last token the slot is free.
    """

    slot: int
    token: int
    finish: Literal["stop", "length"] | None


@dataclass(eq=False)
class _Request:
    """What is known of a request between steps."""

    sampler: Sampler
    unread: list[int]
    left: int
    stop_tokens: frozenset[int]
    last: int | None = None


class Engine:
    """Runs requests on a decoder.

    Args:
        model: the decoder.
        slots: requests at a time.
        context: tokens of each, prompt and answer together.

    Raises:
        ModelError: the model is not made for so many tokens.
    """

    def __init__(self, model: Decoder, slots: int, context: int) -> None:
        self.model = model
        self.cache = model.cache(slots, context)
        self._step = DecodingStep(model, self.cache)
        # In the order of their coming.
        self._requests: dict[int, _Request] = {}

    @property
    def free(self) -> int:
        """Slots that are free."""
        return self.cache.slots - len(self._requests)

    def admit(
        self, prompt: Sequence[int], sampling: Sampling, max_new_tokens: int, stop_tokens: frozenset[int] = frozenset()
    ) -> int:
        """Take a request and return its slot; later steps read its prompt and make its tokens.

        Args:
            prompt: tokens.
            sampling: how its tokens are chosen.
            max_new_tokens: at most so many.
            stop_tokens: tokens that end it.

        Raises:
            ModelError: the prompt is empty, too long for the context, or not of the vocabulary.
            CapacityError: no slot is free.
        """
        if not prompt or max_new_tokens < 1:
            raise ModelError(
                f"{max_new_tokens} new tokens after a prompt of {len(prompt)} make no sense",
                "give a prompt, and ask for at least one token",
            )
        if len(prompt) > self.cache.context:
            raise ModelError(
                f"the prompt has {len(prompt)} tokens and the context {self.cache.context}", "give a shorter prompt"
            )
        check_tokens(prompt, self.model.config.vocabulary)
        slot = next((slot for slot in range(self.cache.slots) if slot not in self._requests), None)
        if slot is None:
            raise CapacityError(f"all {self.cache.slots} slots are taken", "wait until a request is done")
        self.cache.lengths[slot] = 0
        sampler = Sampler(sampling, prompt, self.model.config.vocabulary)
        self._requests[slot] = _Request(sampler, list(prompt), max_new_tokens, stop_tokens)
        return slot

    def release(self, slot: int) -> None:
        """Give up a request; its slot is free at once. One that is done needs no release."""
        self._requests.pop(slot, None)

    def step(self) -> list[Emitted]:
        """Make a token for every request that has read its prompt, and read on in the oldest other prompts.

        Raises:
            ModelError: the model's logits are not finite.
        """
        read = {slot: [request.last] for slot, request in self._requests.items() if request.last is not None}
        room = whole = self._step.chunk
        for slot, request in self._requests.items():
            if request.last is not None:
                continue
            chunk = request.unread[:whole]
            if len(chunk) > room:
                break
            room -= len(chunk)
            request.unread = request.unread[whole:]
            read[slot] = chunk
        if not read:
            return []
        logits = self._step.read([*read.values()], [*read])
        rows = {slot: row for row, slot in enumerate(read) if not self._requests[slot].unread}
        samplers = [self._requests[slot].sampler for slot in rows]
        likeliest = [self._step.likeliest[row] for row in rows.values()]
        tokens = choose(samplers, logits, [*rows.values()], likeliest)
        return [self._emitted(slot, token) for slot, token in zip(rows, tokens, strict=True)]

    def _emitted(self, slot: int, token: int) -> Emitted:
        request = self._requests[slot]
        request.last = token
        request.left -= 1
        finish = None
        if token in request.stop_tokens:
            finish = "stop"
        elif request.left == 0 or self.cache.lengths[slot] == self.cache.context:
            finish = "length"
        if finish is not None:
            del self._requests[slot]
        return Emitted(slot, token, finish)
