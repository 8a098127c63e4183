"""Integers: an even number of levels is two's complement (-8..7), an odd one is symmetric (-7..7)."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.base.errors import FormatError
from octavo.formats.elements.element import base_statistic
from octavo.formats.elements.table import Table
from octavo.formats.elements.tokens import element_token, refuse_unknown


@dataclass(frozen=True)
class Integer(Table):
    """Consecutive integers, in natural units.

    Attributes:
        levels: even n gives -n/2 .. n/2-1 (asymmetric), odd n gives ±(n-1)/2 (symmetric); 2 levels are the signs ±1.
    """

    levels: int

    def values(self) -> tuple[float, ...]:
        if self.levels == 2:
            return (-1.0, 1.0)
        return tuple(float(k - self.levels // 2) for k in range(self.levels))

    def span(self, statistic: str, block: int | None) -> float:
        if self.levels <= 3 and base_statistic(statistic, block) == "absmean":
            return 1.0
        return super().span(statistic, block)

    def __str__(self) -> str:
        return element_token("int", {}, self.levels)


def parse_integer(arguments: dict[str, str], levels: int | None) -> Integer:
    """`int@4` is -8..7; `int(variant=symmetric)@4` drops the odd end: -7..7, the same as `int(levels=15)`.

    Raises:
        FormatError: no size given, or an unknown argument.
    """
    refuse_unknown("int", arguments, {"variant": ("symmetric", "asymmetric")})
    if levels is None:
        raise FormatError("int needs a size", "write int@4 or int(levels=15)")
    variant = arguments.get("variant")
    if variant == "symmetric" and levels % 2 == 0 and levels > 2:
        levels -= 1
    if variant == "asymmetric" and (levels % 2 or levels == 2):
        raise FormatError(f"an integer of {levels} levels is symmetric", "leave variant out")
    return Integer(levels)
