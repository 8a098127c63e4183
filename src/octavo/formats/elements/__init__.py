"""Elements: what a scaled weight may be. A new element is one new file and one line in `ELEMENTS`."""

from __future__ import annotations

from octavo.formats.elements.element import STATISTICS, Element, base_statistic
from octavo.formats.elements.expected import expected_error
from octavo.formats.elements.registry import ELEMENTS, parse_element, parse_fixed_width

__all__ = [
    "ELEMENTS",
    "STATISTICS",
    "Element",
    "base_statistic",
    "expected_error",
    "parse_element",
    "parse_fixed_width",
]
