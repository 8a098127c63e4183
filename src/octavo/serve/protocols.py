"""What the server asks of an engine and of the text layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Emitted:
    slot: int
    token: int
    finish: Finish | None


class Engine(Protocol):
    """Generates for several sequences at once, each in a slot of its own; used from one thread."""

    @property
    def free(self) -> int:
        """Slots that are not taken."""
        ...

    def admit(
        self, prompt: Sequence[int], sampling: Sampling, max_new_tokens: int, stop_tokens: frozenset[int]
    ) -> int:
        """Take a slot for a sequence and return it."""
        ...

    def step(self) -> list[Emitted]:
        """Make one token for every active slot; slots that finish are free afterwards."""
        ...

    def release(self, slot: int) -> None:
        """Free a slot whose sequence is not finished."""
        ...


class TextStream(Protocol):
    """Turns tokens into text as they come."""

    @property
    def stopped(self) -> bool:
        """True once a stop string was found; its text and what follows were held back."""
        ...

    def feed(self, token: int) -> str:
        """The text that is certain with this token: complete characters that begin no stop string."""
        ...

    def finish(self) -> str:
        """What was held back and is not part of a stop string, when no further token comes."""
        ...
