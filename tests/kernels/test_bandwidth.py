"""The roofline reads all of the memory that it claims to read."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.kernels import cpu
from octavo.kernels.bandwidth import read_bandwidth


@pytest.mark.skipif(bool(cpu.MISSING), reason="the C++ kernels are not built")
@given(count=st.integers(0, 200_000), threads=st.integers(1, 4), seed=st.integers(0, 9))
def test_every_number_is_read_once(count: int, threads: int, seed: int) -> None:
    numbers = torch.randint(0, 1 << 40, (count,), generator=torch.Generator().manual_seed(seed))
    assert cpu.sum_of_memory(numbers, threads) == int(numbers.sum())


def test_bandwidth_is_positive() -> None:
    assert read_bandwidth(torch.ones(1 << 16, dtype=torch.int64), repeats=1) > 0
