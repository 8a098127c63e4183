"""In what formats a cache keeps keys and values, and how many tokens at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass

from octavo.base.errors import FormatError
from octavo.formats import Format
from octavo.models.packed_tokens import Sharing

GROUP = 64
"""Tokens that are packed together, where nothing else is said."""

# Fractions such as alpha=1/3 stand in parentheses.
_BETWEEN = re.compile(r"/(?![^()]*\))")


@dataclass(frozen=True)
class CacheFormat:
    """How a cache keeps old tokens.

    Attributes:
        keys: format of the keys.
        values: format of the values.
        group: tokens that are packed together. At least so many recent tokens are not packed, and less than twice as
            many; blocks of keys end with the group.
        key_scales: what a scale of the keys belongs to.
    """

    keys: Format
    values: Format
    group: int = GROUP
    key_scales: Sharing = "channel"

    def __post_init__(self) -> None:
        for format in (self.keys, self.values):
            if format.code != "fixed":
                raise FormatError(f"a cache cannot be kept in {format}", "use a format of fixed width, e.g. int@4 b32")
        if self.group < 1:
            raise FormatError(f"a group of {self.group} tokens cannot be packed", f"use for instance {GROUP}")

    @classmethod
    def parse(cls, text: str) -> CacheFormat:
        """`FORMAT` for both, or `KEYS/VALUES`: `int@4 b32`, `int@4 b32/int@2 b32`.

        Raises:
            FormatError: these are no formats of fixed width.
        """
        keys, *values = _BETWEEN.split(text)
        if len(values) > 1:
            raise FormatError(f"{text!r} names more than two formats", "write FORMAT or KEYS/VALUES")
        return cls(Format.parse(keys), Format.parse(values[0] if values else keys))

    def __str__(self) -> str:
        return f"{self.keys}/{self.values}"
