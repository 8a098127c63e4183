"""What the server asks of an engine: `octavo.decoding.engine.Engine` does it, and tests have a smaller one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from octavo.decoding.engine import Emitted
from octavo.decoding.sampling import Sampling


class SteppingEngine(Protocol):
    """Makes tokens for several requests at once, each in a slot of its own; used from one thread at a time."""

    @property
    def free(self) -> int:
        """Slots that are not taken."""
        ...

    def admit(self, prompt: Sequence[int], sampling: Sampling, max_new_tokens: int, stop_tokens: frozenset[int]) -> int:
        """Take a request and return its slot.

        Raises:
            ModelError: the prompt cannot be used.
        """
        ...

    def step(self) -> list[Emitted]:
        """Make at most one token for each slot; a slot whose request is finished is free afterwards."""
        ...

    def release(self, slot: int) -> None:
        """Free the slot of a request that is not finished."""
        ...
