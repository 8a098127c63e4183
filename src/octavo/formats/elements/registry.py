"""The one table of elements by name, and the parser of their tokens."""

from __future__ import annotations

from collections.abc import Callable

from octavo.base.errors import FormatError
from octavo.formats.elements.element import Element
from octavo.formats.elements.integer import parse_integer
from octavo.formats.elements.tokens import nearest, split_token

ElementParser = Callable[[dict[str, str], int | None], Element]

ELEMENTS: dict[str, ElementParser] = {
    "int": parse_integer,
}
"""Element name to its parser, called with the token's arguments and its number of levels (None if not given)."""


def parse_element(token: str) -> Element:
    """The element a token names, e.g. `cbrt-t(df=5)@3`, `nf4`, `int(levels=15)`.

    Raises:
        FormatError: unknown element (the nearest known one is named), argument or size.
    """
    name, arguments, levels = split_token(token)
    parser = ELEMENTS.get(name)
    if parser is None:
        raise FormatError(f"unknown element {name!r}", nearest(name, ELEMENTS))
    return parser(arguments, levels)
