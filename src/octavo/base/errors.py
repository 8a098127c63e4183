"""What can go wrong at the user's side. Each error says what is wrong and what to do about it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class OctavoError(Exception):
    """A mistake or obstacle the user can act on; the command line prints it as one line and exits with 2.

    Args:
        problem: what is wrong, naming the file, tensor or option.
        remedy: what to do about it.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem}; {remedy}" if remedy else problem)


class FormatError(OctavoError):
    """A format string or a format's parameters make no sense."""


class CheckpointError(OctavoError):
    """A checkpoint is missing, damaged, lying about its lengths, or of an unknown kind."""


class BudgetError(OctavoError):
    """No plan meets the budget."""


class OutputError(OctavoError):
    """The output exists already, cannot be written, or the disk is full."""


class ModelError(OctavoError):
    """A model, tokenizer or text cannot be used as asked."""


class ConfigurationError(OctavoError):
    """A setting does not exist, or its value makes no sense."""


class TrainingError(OctavoError):
    """A training run cannot go on."""


class LawError(OctavoError):
    """Runs do not determine a law, or a question to it makes no sense."""


class CapacityError(OctavoError):
    """There is no room for more work at the moment."""


@contextlib.contextmanager
def about(name: str) -> Iterator[None]:
    """Within, an error names what it is about, for instance a tensor."""
    try:
        yield
    except OctavoError as error:
        raise type(error)(f"{name}: {error.problem}", error.remedy) from error
