"""Stopping at the end of a step when the system or the user asks for it, so that nothing is lost."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Which signal has come; None for none."""

    def __init__(self) -> None:
        self.signal: int | None = None


@contextlib.contextmanager
def stop_requests(listening: bool) -> Iterator[StopRequest]:
    """Within, SIGTERM and Ctrl-C are noted; a second Ctrl-C interrupts at once.

    Args:
        listening: without it, and outside the main thread, signals do what they always do.
    """
    request = StopRequest()
    if not listening or threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and request.signal == signal.SIGINT:
            raise KeyboardInterrupt
        request.signal = number

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
