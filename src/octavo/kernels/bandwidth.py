"""The bandwidth of the memory: what products of one input cannot exceed."""

from __future__ import annotations

import time

import torch
from jaxtyping import Int64
from torch import Tensor

from octavo.kernels import cpu

READ = 1 << 29
"""Bytes that are read by default: more than caches hold."""


def read_bandwidth(block: Int64[Tensor, " numbers"] | None = None, repeats: int = 5) -> float:
    """Bytes a second that torch's threads read, at best.

    Args:
        block: what is read; default: half a gigabyte.
        repeats: times that it is read after the first, of which the fastest counts.
    """
    block = torch.ones(READ // 8, dtype=torch.int64) if block is None else block
    threads = torch.get_num_threads()
    shortest = float("inf")
    for number in range(repeats + 1):
        start = time.perf_counter()
        block.sum() if cpu.MISSING else cpu.sum_of_memory(block, threads)
        shortest = min(shortest, time.perf_counter() - start) if number else shortest
    return block.nbytes / shortest
