"""Sizes as people write them."""

from __future__ import annotations

import pytest

from octavo.base.errors import BudgetError
from octavo.base.units import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("100MB", 100_000_000),
        ("1.5GiB", 3 << 29),
        ("1.5 gib", 3 << 29),
        (".5k", 500),
        ("1.0005kB", 1000),
        ("2TiB", 2 << 40),
        ("3M", 3_000_000),
    ],
)
def test_parse_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1iB", "1.2.3", "1EB", "1MBB", "nan", "1e3"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(BudgetError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (98_362_432, "98.4 MB"),
        (999_960, "1.0 MB"),
        (7 * 10**15, "7000.0 TB"),
    ],
)
def test_format_size(size: int, text: str) -> None:
    assert format_size(size) == text
