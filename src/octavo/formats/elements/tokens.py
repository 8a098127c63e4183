"""Tokens of the element grammar: `NAME[(key=value,...)][@BITS]`, printed canonically."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping

from octavo.base.errors import FormatError

MAX_LEVELS = 256

_TOKEN = re.compile(r"(?P<name>[a-z][a-z0-9-]*)(?:\((?P<arguments>[^()]*)\))?(?:@(?P<bits>[0-9]+(?:\.[0-9]+)?))?")


def split_token(token: str) -> tuple[str, dict[str, str], int | None]:
    """Name, arguments (without `levels`) and number of levels of a token; levels from `@BITS` is round(2^BITS).

    Raises:
        FormatError: the token has another shape, repeats a key, or gives a size twice or out of range.
    """
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise FormatError(f"{token!r} is no element", "write NAME(key=value,...)@BITS, e.g. cbrt-t(df=5)@3")
    arguments: dict[str, str] = {}
    for item in filter(None, (match["arguments"] or "").split(",")):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not (key and equals and value) or key in arguments:
            raise FormatError(f"{item!r} in {token!r} is not a new key=value", "give each key once, as in (df=5)")
        arguments[key] = value
    named = arguments.pop("levels", None)
    if named is not None and match["bits"] is not None:
        raise FormatError(f"{token!r} gives its size twice", "keep either levels=N or @BITS")
    levels = None
    if named is not None:
        levels = whole_number(named, "levels")
    elif match["bits"] is not None:
        bits = float(match["bits"])
        levels = round(2**bits) if bits <= 16 else 2**16
    if levels is not None and not 2 <= levels <= MAX_LEVELS:
        raise FormatError(f"{token!r} has {levels} levels", f"choose 2 to {MAX_LEVELS} levels, 1 to 8 bits")
    return match["name"], arguments, levels


def element_token(name: str, arguments: Mapping[str, str], levels: int | None) -> str:
    """The canonical token: `@BITS` for powers of two, `levels=N` otherwise, nothing for fixed sizes (levels None)."""
    arguments = dict(arguments)
    size = ""
    if levels is not None:
        if levels & (levels - 1) == 0:
            size = f"@{levels.bit_length() - 1}"
        else:
            arguments["levels"] = str(levels)
    inner = ",".join(f"{key}={value}" for key, value in arguments.items())
    return name + (f"({inner})" if inner else "") + size


def refuse_unknown(name: str, arguments: Mapping[str, str], allowed: Mapping[str, Iterable[str] | None]) -> None:
    """Raise FormatError for a key not in `allowed`, or a value not among a key's choices (None: any value)."""
    for key, value in arguments.items():
        if key not in allowed:
            known = ", ".join([*allowed, "levels"])
            raise FormatError(f"{name} has no argument {key!r}", f"it takes {known}")
        choices = allowed[key]
        if choices is not None and value not in choices:
            raise FormatError(f"{name} has no {key} {value!r}", f"choose {' or '.join(choices)}")


def whole_number(text: str, what: str) -> int:
    """A non-negative decimal integer, or FormatError."""
    if not text.isdecimal() or len(text) > 9:
        raise FormatError(f"{what}={text} is not a whole number", f"write {what}=11")
    return int(text)


def real_number(text: str, what: str) -> float:
    """A finite number, also as a fraction like 1/3, or FormatError."""
    numerator, slash, denominator = text.partition("/")
    try:
        value = float(numerator) / (float(denominator) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not math.isfinite(value):
        raise FormatError(f"{what}={text} is not a number", f"write {what}=5 or {what}=1/3")
    return value


def number_text(value: float) -> str:
    """The shortest text that reads back as `value`: thirds as fractions, whole numbers without a point."""
    if value == 1 / 3:
        return "1/3"
    return str(int(value)) if value == int(value) else repr(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy that names the nearest known element."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    listed = f"known are {', '.join(known)}"
    return f"did you mean {close[0]}? {listed}" if close else listed
