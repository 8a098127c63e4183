"""Small floats: one sign bit, X exponent bits, Y mantissa bits, at most eight in all.

Value of exponent field e and mantissa field m: (1 + m/2^Y)·2^(e-bias), and m/2^Y·2^(1-bias) where e = 0, with
bias = 2^(X-1) - 1. Which codes are set aside follows the types that exist under these names (OCP 8-bit and microscaling
specifications, IEEE 754, `ml_dtypes`): E4M3 gives up only the all-ones code to NaN, E5M2 and E3M4 their whole top
exponent to infinities and NaN; all others, E2M1, E2M3 and E3M2 among them, are finite throughout. The two zeros are
one level.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from octavo.base.errors import FormatError
from octavo.formats.elements.table import Table
from octavo.formats.elements.tokens import refuse_unknown

IEEE = {(5, 2), (3, 4)}
NAN_AT_ALL_ONES = {(4, 3)}
NAMES = tuple(f"e{exponent}m{mantissa}" for exponent in range(1, 8) for mantissa in range(8 - exponent))


@dataclass(frozen=True)
class Floating(Table):
    """The finite values of an ExMy float, in natural units.

    Attributes:
        exponent: exponent bits X, from 1.
        mantissa: mantissa bits Y, from 0.
    """

    exponent: int
    mantissa: int

    @property
    def levels(self) -> int:
        return 2 * self._magnitudes() - 1

    def _magnitudes(self) -> int:
        count = 2 ** (self.exponent + self.mantissa)
        if (self.exponent, self.mantissa) in IEEE:
            count -= 2**self.mantissa
        if (self.exponent, self.mantissa) in NAN_AT_ALL_ONES:
            count -= 1
        return count

    def values(self) -> tuple[float, ...]:
        bias = 2 ** (self.exponent - 1) - 1
        positive = []
        for code in range(1, self._magnitudes()):
            field, fraction = divmod(code, 2**self.mantissa)
            significand = fraction / 2**self.mantissa + (field > 0)
            positive.append(significand * 2.0 ** (max(field, 1) - bias))
        return (*(-value for value in reversed(positive)), 0.0, *positive)

    def __str__(self) -> str:
        return f"e{self.exponent}m{self.mantissa}"


def parse_floating(name: str, arguments: dict[str, str], levels: int | None) -> Floating:
    """`e2m1`, `e4m3` and so on; the name is the size.

    Raises:
        FormatError: the name is no ExMy of at most 8 bits, or a size or argument is given.
    """
    refuse_unknown(name, arguments, {})
    if name not in NAMES:
        raise FormatError(f"{name} is no float of at most 8 bits", "choose eXmY with X of at least 1 and 1+X+Y up to 8")
    if levels is not None:
        raise FormatError(f"{name} has a fixed size", f"write {name}")
    exponent, mantissa = (int(digit) for digit in re.findall(r"\d", name))
    return Floating(exponent, mantissa)
