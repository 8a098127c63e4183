"""Large pages hold what small ones held, and only where tensors fill them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from octavo.base.huge_pages import PAGE, use_huge_pages

SMAPS = Path("/proc/self/smaps_rollup")


def huge() -> int:
    found = re.search(r"AnonHugePages:\s+(\d+) kB", SMAPS.read_text())
    return int(found[1]) * 1024 if found else 0


def test_contents_stay(generator: torch.Generator) -> None:
    large = torch.randint(0, 256, (4 * PAGE,), dtype=torch.uint8, generator=generator)
    small = torch.arange(5)
    copies = large.clone(), small.clone()
    use_huge_pages([large, small, torch.empty(0)])
    assert torch.equal(large, copies[0])
    assert torch.equal(small, copies[1])


@pytest.mark.skipif(not SMAPS.exists(), reason="only Linux says which pages are large")
def test_pages_that_tensors_fill_are_large(generator: torch.Generator) -> None:
    base = torch.randint(0, 256, (8 * PAGE,), dtype=torch.uint8, generator=generator)
    begin = -base.data_ptr() % PAGE
    # Two tensors fill a page together; half of another is not enough.
    halves = [base[begin : begin + PAGE // 2], base[begin + PAGE // 2 : begin + PAGE]]
    half = base[begin + 2 * PAGE : begin + 2 * PAGE + PAGE // 2]
    before = huge()
    found = use_huge_pages([*halves, half])
    if found == 0:
        pytest.skip("this system makes no large pages of small ones")
    assert found == PAGE
    assert huge() == before + PAGE
