"""A small engine whose every token is a hash of the seed and of all tokens before it.

A token that is lost, repeated, or put into another sequence changes all that follow, so equal texts mean that nothing
was. It is used from one thread, or it says so.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from octavo.base.errors import CapacityError, ModelError
from octavo.decoding.engine import Emitted
from octavo.decoding.sampling import Sampling

VOCABULARY = 1000


@dataclass
class Slot:
    sampling: Sampling
    left: int
    stop_tokens: frozenset[int]
    state: bytes


@dataclass
class HashEngine:
    """Slots with a chain of hashes each.

    Attributes:
        slots: how many.
        context: tokens of a prompt and its answer.
        delay: seconds that a step takes.
        gate: steps wait while it is not set.
        failure: raised by the next step.
    """

    slots: int = 4
    context: int = 4096
    delay: float = 0.0
    gate: threading.Event = field(default_factory=threading.Event)
    failure: Exception | None = None
    steps: int = 0
    released: int = 0

    def __post_init__(self) -> None:
        self.active: dict[int, Slot] = {}
        self._owner: int | None = None
        self.gate.set()

    @property
    def free(self) -> int:
        return self.slots - len(self.active)

    def admit(self, prompt: Sequence[int], sampling: Sampling, max_new_tokens: int, stop_tokens: frozenset[int]) -> int:
        self._check_thread()
        if not self.free:
            raise CapacityError("no slot is free", "wait")
        if not prompt or not all(0 <= token < VOCABULARY for token in prompt):
            raise ModelError("the prompt has tokens that the model does not know", "give others")
        if len(prompt) + max_new_tokens > self.context:
            raise ModelError("the prompt is too long", "shorten it")
        slot = min(set(range(self.slots)) - self.active.keys())
        # Greedy answers do not depend on the seed.
        seed = sampling.seed if sampling.temperature > 0 else "greedy"
        state = hashlib.blake2b(f"{seed} {list(prompt)}".encode()).digest()
        self.active[slot] = Slot(sampling, max_new_tokens, stop_tokens, state)
        return slot

    def step(self) -> list[Emitted]:
        self._check_thread()
        self.gate.wait(120)
        if self.delay:
            time.sleep(self.delay)
        self.steps += 1
        if self.failure is not None:
            raise self.failure
        emitted = []
        for number, slot in list(self.active.items()):
            token = int.from_bytes(slot.state[:4], "little") % VOCABULARY
            slot.state = hashlib.blake2b(slot.state + token.to_bytes(4, "little")).digest()
            slot.left -= 1
            finish = "stop" if token in slot.stop_tokens else "length" if slot.left == 0 else None
            if finish:
                del self.active[number]
            emitted.append(Emitted(number, token, finish))
        # The order of slots is the engine's own business.
        return emitted[::-1] if self.steps % 2 else emitted

    def release(self, slot: int) -> None:
        self._check_thread()
        self.released += 1
        del self.active[slot]

    def _check_thread(self) -> None:
        self._owner = self._owner or threading.get_ident()
        if self._owner != threading.get_ident():
            raise AssertionError("the engine is used from two threads")


def answer_of(
    prompt: Sequence[int], sampling: Sampling, max_new_tokens: int, stop_tokens: frozenset[int] = frozenset()
) -> list[int]:
    """What an engine with nothing else to do makes of a prompt; a stop token is not part of it."""
    engine = HashEngine(slots=1, context=len(prompt) + max_new_tokens)
    engine.admit(prompt, sampling, max_new_tokens, stop_tokens)
    made = []
    while engine.active:
        (emitted,) = engine.step()
        if emitted.finish != "stop":
            made.append(emitted.token)
    return made


class NumberTokenizer:
    """Reads letters as their codes, and writes tokens as numbers with a space after each."""

    bos_token_id = 1
    chat_template = "roles and contents"

    @dataclass
    class Encoding:
        input_ids: list[int]

    def __call__(self, text: str, *, add_special_tokens: bool = True, verbose: bool = True) -> Encoding:
        return self.Encoding([ord(letter) % VOCABULARY for letter in text])

    def decode(self, token_ids: Sequence[int], **_: bool) -> str:
        return "".join(f"{token} " for token in token_ids)

    def apply_chat_template(self, messages: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool) -> str:
        from jinja2 import TemplateError

        if messages[0]["role"] == "assistant":
            raise TemplateError("conversations begin with the user")
        return "".join(f"<{message['role']}>{message['content']}" for message in messages) + "<assistant>"
