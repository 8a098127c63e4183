"""How much memory this process takes, and giving back what it does not need."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path


def peak_memory() -> int:
    """The most bytes that were ever in memory at a time."""
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_memory() -> int:
    """Bytes that are in memory now; where the system does not say, the peak."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_memory()


def give_back_memory() -> None:
    """Return freed memory to the system, also where it lies between pieces that are kept; glibc would hold on to it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
