"""The byte layout of packed codes: the one place that says which code lies in which bits.

Codes of an alphabet of `levels` symbols are the digits of base-`levels` numbers. `digits` consecutive codes make one
number (the first code is its least significant digit) and every such number is stored in `bytes` little-endian bytes.
The last group may be short: its number takes the fewest bytes that hold `levels ** remainder` values. Codes of
consecutive rows run on without padding.

For a power of two, `levels = 2**w`, eight digits fill w bytes exactly, so that the layout is a plain bit stream: code i
occupies bits [i*w, (i+1)*w), bit 0 being the least significant bit of byte 0, and the tail is padded with zero bits.
For any other alphabet (digits, bytes) is the pair with bytes <= 8 of the fewest bits per code, the shortest on ties:
five ternary digits a byte (1.6 bits), sixteen base-11 digits in seven bytes (3.5 bits).

Every string of bytes decodes to codes below `levels`: what exceeds `levels ** digits` in a damaged group is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from octavo.base.errors import FormatError

MAX_LEVELS = 256


@dataclass(frozen=True)
class Layout:
    """How many codes make one group, and how many bytes hold it.

    Attributes:
        levels: size of the alphabet.
        digits: codes in a full group.
        bytes: bytes of a full group.
        tail_bytes: bytes of a last group of 0, 1, ... digits - 1 codes.
    """

    levels: int
    digits: int
    bytes: int
    tail_bytes: tuple[int, ...]


def is_power_of_two(levels: int) -> bool:
    return levels & (levels - 1) == 0


@cache
def layout_of(levels: int) -> Layout:
    """The layout of an alphabet of 2 to 256 levels; FormatError for other sizes."""
    if not 2 <= levels <= MAX_LEVELS:
        raise FormatError(f"an alphabet of {levels} levels cannot be packed", f"use 2 to {MAX_LEVELS} levels")
    if is_power_of_two(levels):
        digits, size = 8, levels.bit_length() - 1
    else:
        pairs = [(_digits_in(levels, size), size) for size in range(1, 9)]
        digits, size = min(pairs, key=lambda pair: (pair[1] / pair[0], pair[1]))
    tails = tuple(((levels**count - 1).bit_length() + 7) // 8 for count in range(digits))
    return Layout(levels, digits, size, tails)


def _digits_in(levels: int, size: int) -> int:
    digits = 0
    while levels ** (digits + 1) <= 256**size:
        digits += 1
    return digits


def packed_bytes(count: int, levels: int) -> int:
    """Exact bytes of `count` packed codes of an alphabet of `levels` symbols."""
    layout = layout_of(levels)
    if is_power_of_two(levels):
        return (count * layout.bytes + 7) // 8
    return count // layout.digits * layout.bytes + layout.tail_bytes[count % layout.digits]
