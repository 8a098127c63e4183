"""Work on several things at once, torch's threads shared out among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")


def in_threads(work: Callable[[S], T], items: Sequence[S], workers: int) -> Iterator[T]:
    """`work` on every item, in order, on some threads of Python.

    Each has its share of torch's threads: two with two threads each on two cores wait for each other at every barrier,
    which takes many times as long as one thread each. What is not begun when the caller stops taking results is
    left out.
    """
    threads = torch.get_num_threads()

    def alone(item: S) -> T:
        torch.set_num_threads(max(1, threads // workers))  # of this worker
        return work(item)

    pool = ThreadPoolExecutor(workers)
    try:
        for future in [pool.submit(alone, item) for item in items]:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Torch's operations within run on the calling thread alone: its others would stay awake for milliseconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
