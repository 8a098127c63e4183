"""The time that a tuning may take, shown as it passes."""

from __future__ import annotations

import time

from octavo.base.progress import Progress


class Clock:
    """Counts down from the moment it is made.

    Args:
        seconds: in all.
        progress: shown seconds as they pass.
        description: of the work.
    """

    def __init__(self, seconds: float, progress: Progress, description: str) -> None:
        self._start, self._seconds = time.monotonic(), seconds
        whole = range(max(1, round(seconds)))
        self._bar = iter(progress.track(whole, description, total=len(whole)))
        self._shown = -1

    @property
    def passed(self) -> float:
        """Seconds since the beginning; shows them."""
        found = time.monotonic() - self._start
        while self._shown < min(found, self._seconds):
            next(self._bar, None)
            self._shown += 1
        return found

    @property
    def left(self) -> float:
        """Seconds to the end; negative when it is past."""
        return self._seconds - self.passed

    def stop(self) -> None:
        """Let the bar come to its end."""
        for _ in self._bar:
            pass
