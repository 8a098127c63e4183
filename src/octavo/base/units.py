"""Sizes in bytes and large counts, written the way people write them."""

from __future__ import annotations

import re
from decimal import Decimal

from octavo.base.errors import BudgetError

_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kKmMgGtT]?)(i?)([bB]?)\s*")
_COUNT = re.compile(r"\s*(\d+(?:\.\d*)?(?:[eE]\d+)?|\.\d+)\s*([kKmMgGbBtT]?)\s*")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str) -> int:
    """Bytes meant by `text`, rounded down: `100MB` is 100 * 1000**2, `1.5GiB` is 1.5 * 1024**3, `4096` is bytes.

    Raises:
        BudgetError: if `text` is no size.
    """
    match = _SIZE.fullmatch(text)
    if match is None or (match[3] and not match[2]):
        raise BudgetError(f"{text!r} is not a size", "write for instance 100MB, 1.5GiB or 4096")
    base = 1024 if match[3] else 1000
    return int(Decimal(match[1]) * base ** _POWERS[match[2].lower()])


def parse_count(text: str) -> int:
    """How many `text` means, rounded down: `150B` is 150 billion, `1T` a trillion, `2.5M` or `25e5` 2,500,000.

    Raises:
        BudgetError: if `text` is no count.
    """
    match = _COUNT.fullmatch(text)
    if match is None:
        raise BudgetError(f"{text!r} is not a count", "write for instance 150B, 1T or 2500000")
    return int(Decimal(match[1]) * 1000 ** {**_POWERS, "b": 3}[match[2].lower()])


def format_count(count: float) -> str:
    """A count in three digits: 9097000000 -> `9.1 B`."""
    for power, letter in ((12, "T"), (9, "B"), (6, "M"), (3, "k")):
        if abs(count) >= 10**power:
            return f"{count / 10**power:.3g} {letter}"
    return f"{count:.3g}"


def format_size(size: int) -> str:
    """`size` bytes in three or four digits with a decimal prefix: 98362432 -> `98.4 MB`."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 999.95 or unit == "TB":
            break
        value /= 1000
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
