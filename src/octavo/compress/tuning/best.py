"""The best that a tuned model has been on held-out text, and the parameters it had then."""

from __future__ import annotations

from octavo.compress.tuning.clock import Clock
from octavo.compress.tuning.held_out import HeldOut
from octavo.compress.tuning.student import Student
from octavo.formats.tuning import Deviations


class Best:
    """Starts from the untuned model.

    Args:
        held_out: what is measured on.
        student: untuned.
        clock: the time.

    Attributes:
        before: KL of the untuned model, nats per token.
        kl: the lowest since.
        failures: measurements since the lowest.
        seconds: what the last measurement took.
    """

    def __init__(self, held_out: HeldOut, student: Student, clock: Clock) -> None:
        self._held_out, self._clock = held_out, clock
        self._moment: list[Deviations] = student.now()
        self.failures, self.seconds = 0, 0.0
        self.before = self.kl = self._divergence(student)

    def measure(self, student: Student) -> None:
        """Measure the student as it is now."""
        found = self._divergence(student)
        if found < self.kl:
            self.kl, self._moment, self.failures = found, student.now(), 0
        else:
            self.failures += 1

    def restore(self, student: Student) -> None:
        """Take the student back to its best."""
        student.go_back(self._moment)
        self.failures = 0

    def _divergence(self, student: Student) -> float:
        start = self._clock.passed
        found = self._held_out.divergence(student)
        self.seconds = self._clock.passed - start
        return found
