"""The one table of elements by name, and the parser of their tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from octavo.base.errors import FormatError
from octavo.formats.elements.cube_root import parse_cube_root
from octavo.formats.elements.element import Element
from octavo.formats.elements.floating import NAMES, parse_floating
from octavo.formats.elements.integer import parse_integer
from octavo.formats.elements.lloyd_density import parse_lloyd_density
from octavo.formats.elements.lloyd_max import parse_lloyd_max
from octavo.formats.elements.normal_float import parse_normal_float
from octavo.formats.elements.tokens import nearest, split_token
from octavo.formats.elements.trellis import NAME as TRELLIS
from octavo.formats.elements.trellis import Trellis, parse_trellis

ElementParser = Callable[[dict[str, str], int | None], Element]

ELEMENTS: dict[str, ElementParser] = {
    "cbrt-normal": partial(parse_cube_root, "normal"),
    "cbrt-laplace": partial(parse_cube_root, "laplace"),
    "cbrt-t": partial(parse_cube_root, "t"),
    "lloyd": parse_lloyd_max,
    "lloyd-normal": partial(parse_lloyd_density, "normal"),
    "lloyd-laplace": partial(parse_lloyd_density, "laplace"),
    "lloyd-t": partial(parse_lloyd_density, "t"),
    "int": parse_integer,
    "nf4": partial(parse_normal_float, "nf4"),
    "sf4": partial(parse_normal_float, "sf4"),
    **{name: partial(parse_floating, name) for name in NAMES},
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


def parse_fixed_width(token: str) -> Element | Trellis:
    """The same, or a trellis: whatever may be the element of a group of columns.

    Raises:
        FormatError: as `parse_element`.
    """
    name, arguments, levels = split_token(token)
    return parse_trellis(arguments, levels) if name == TRELLIS else parse_element(token)
