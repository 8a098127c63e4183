"""The string grammar of formats: one line, tokens separated by spaces.

    ELEMENT [GRANULARITY] [STATISTIC[:SCALE]] [outliers=P] [ans]

- ELEMENT: `NAME[(key=value,...)][@BITS]`: an element of octavo.formats.elements, such as `cbrt-t(df=5)@3`, `int@4`,
  `lloyd(levels=11)`, `trellis(states=4096)@3`, `nf4`, `e2m1`; several of them for groups of columns,
  `columns(int@8=32,lloyd@5=128,lloyd@3)`; a complete format such as `mxfp4` or `nvfp4`, which takes no further tokens;
  a lattice, `lattice-e8@2` or `glvq(d=8)@2`;
  or `grid@RATE` and `grid(step=X)`, which need `ans`.
- GRANULARITY: `tensor`, `channel`, `bN` (default `b64`), or `separable` for grids.
- STATISTIC: `absmax` (default), `signmax`, `rms`, `absmean`, `search`. SCALE: `bf16` (default), `fp32`, `fp16`, `e8m0`,
  `e4m3`, `e5m2`, `u8`, `s8`.
- `outliers=P`: the fraction P of weights stays in bfloat16.
- `ans`: indices are entropy coded.

Tokens after the first may come in any order and are printed in this one, defaults included, so that equal formats print
alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo.base.errors import FormatError
from octavo.formats import column_groups
from octavo.formats.column_groups import ColumnGroups, parse_column_groups
from octavo.formats.elements import ELEMENTS, STATISTICS, parse_fixed_width
from octavo.formats.elements.element import Element
from octavo.formats.elements.grid import Grid, parse_grid
from octavo.formats.elements.tokens import nearest, number_text, real_number
from octavo.formats.elements.trellis import NAME as TRELLIS
from octavo.formats.elements.trellis import Trellis
from octavo.formats.format import Format
from octavo.formats.lattice.element import VectorElement
from octavo.formats.lattice.registry import VECTORS
from octavo.formats.microscaling import MICROSCALING, Microscaling, parse_microscaling
from octavo.formats.scaling import Scaling

EXAMPLE = "cbrt-t(df=5)@3 b64 absmax:bf16"
_FIELDS = ("element", "granularity", "statistic", "scale", "outliers", "code")


def parse(text: str) -> Format:
    """The format a string names.

    Raises:
        FormatError: an unknown, repeated or impossible token; the message names it.
    """
    head, *tokens = text.split() or [""]
    if not head:
        raise FormatError("an empty string is no format", f"write for instance {EXAMPLE}")
    element = _element(head)
    found: dict[str, str] = {}
    for token in tokens:
        kind = _kind(token)
        if kind in found:
            raise FormatError(f"{text!r} has two {kind} tokens, {found[kind]} and {token}", "keep one")
        found[kind] = token
    if isinstance(element, Microscaling):
        if found:
            raise FormatError(f"{element} is a complete format", f"write {element} alone")
        return Format(element, element.scaling)
    outliers = real_number(found["outliers"].partition("=")[2], "outliers") if "outliers" in found else 0.0
    usual = element.usual_scaling if isinstance(element, VectorElement) else Scaling()
    return Format(element, _scaling(found, usual), outliers, "ans" if "code" in found else "fixed")


def text_of(format: Format) -> str:
    """The canonical string of a format."""
    if isinstance(format.element, Microscaling):
        return str(format.element)
    tokens = [str(format.element), str(format.scaling)]
    if format.outliers:
        tokens.append(f"outliers={number_text(format.outliers)}")
    if format.code == "ans":
        tokens.append("ans")
    return " ".join(tokens)


def from_json(fields: Mapping[str, Any]) -> Format:
    """The format with the fields that `Format.to_json` writes.

    Raises:
        FormatError: a field is missing, unknown, of another type, or makes no sense.
    """
    if set(fields) != set(_FIELDS):
        odd = ", ".join(sorted(set(fields) ^ set(_FIELDS)))
        raise FormatError(f"missing or unknown format fields: {odd}", f"give {', '.join(_FIELDS)}")
    element, granularity, statistic, scale, outliers, code = (fields[name] for name in _FIELDS)
    optional = [value for value in (statistic, scale) if value is not None]
    if not all(isinstance(value, str) for value in (element, granularity, code, *optional)):
        raise FormatError("a format field is not a string", f"only outliers is a number in {dict(fields)}")
    if isinstance(outliers, bool) or not isinstance(outliers, int | float):
        raise FormatError(f"outliers={outliers!r} is not a number", "give a fraction, e.g. 0.001")
    return Format(_element(element), Scaling(granularity, statistic, scale), float(outliers), code)


def _element(token: str) -> Element | Trellis | Grid | Microscaling | ColumnGroups | VectorElement:
    name = token.partition("(")[0].partition("@")[0]
    if name == "grid":
        return parse_grid(token)
    if name == column_groups.NAME:
        return parse_column_groups(token)
    if name in MICROSCALING:
        return parse_microscaling(token)
    if name in VECTORS:
        return VECTORS[name](token)
    if name not in (*ELEMENTS, TRELLIS):
        known = [*ELEMENTS, TRELLIS, *MICROSCALING, *VECTORS, "grid", column_groups.NAME]
        raise FormatError(f"unknown element {name!r}", nearest(name, known))
    return parse_fixed_width(token)


def _kind(token: str) -> str:
    """Which of the optional tokens this is."""
    if token == "ans":
        return "code"
    if token.startswith("outliers="):
        return "outliers"
    if token.partition(":")[0] in STATISTICS:
        return "statistic"
    if token in ("tensor", "channel", "separable") or (token[:1] == "b" and token[1:].isdecimal()):
        return "granularity"
    known = ["tensor", "channel", "separable", "b64", *STATISTICS, "outliers=0.001", "ans"]
    raise FormatError(f"unknown token {token!r}", nearest(token, known))


def _scaling(found: Mapping[str, str], usual: Scaling) -> Scaling:
    granularity = found.get("granularity", usual.granularity)
    if granularity == "separable":
        if "statistic" in found:
            raise FormatError("separable steps have no statistic", f"leave out {found['statistic']}")
        return Scaling(granularity, None, None)
    statistic, colon, scale = found.get("statistic", usual.statistic or "").partition(":")
    return Scaling(granularity, statistic, scale if colon else usual.scale)
