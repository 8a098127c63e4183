"""Freed memory, given back to the system."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def give_back_freed_memory() -> None:
    """Let go of memory that was freed but that the C library keeps for later; where it has no such call, do nothing.

    glibc returns blocks above 32 MB at once and keeps smaller ones, and its heap grows between those still in use:
    on weights of a few megabytes that come and go it took five times what was alive.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
