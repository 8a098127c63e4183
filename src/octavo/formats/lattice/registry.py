"""The one table of vector elements by name."""

from __future__ import annotations

from collections.abc import Callable

from octavo.formats.lattice.element import VectorElement
from octavo.formats.lattice.fixed import PREFIX, parse_fixed_lattice
from octavo.formats.lattice.grouped import NAME, parse_grouped_lattices
from octavo.formats.lattice.nearest import LATTICES

VECTORS: dict[str, Callable[[str], VectorElement]] = {
    **{f"{PREFIX}{name}": parse_fixed_lattice for name in LATTICES},
    NAME: parse_grouped_lattices,
}
"""Element name to the parser of its token."""
