"""Progress of long work, told to whoever wants to show it. The library never prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")

Description = str | Callable[[], str]
"""What is being worked on: a text, or a function that says it anew, with figures of the moment."""


class Progress(Protocol):
    """Told what is being worked on and how far it has come."""

    def track(self, items: Iterable[T], description: Description, total: int | None = None) -> Iterator[T]:
        """Yield `items`, reporting each as done when the next is asked for."""
        ...

    def message(self, text: str) -> None:
        """Say one line, for instance a warning."""
        ...


class Silent:
    """The default: shows nothing."""

    def track(self, items: Iterable[T], description: Description, total: int | None = None) -> Iterator[T]:
        yield from items

    def message(self, text: str) -> None:
        pass


SILENT = Silent()
