"""Integers: an even number of levels is two's complement (-8..7), an odd one is symmetric (-7..7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.formats.elements.table import TableSpan
from octavo.formats.elements.tokens import element_token, refuse_unknown


@dataclass(frozen=True)
class Integer(TableSpan):
    """Consecutive integers, in natural units.

    Attributes:
        levels: even n gives -n/2 .. n/2-1 (asymmetric), odd n gives ±(n-1)/2 (symmetric).
    """

    levels: int

    stored: ClassVar[bool] = False
    data_driven: ClassVar[bool] = False

    def values(self) -> Float[Tensor, " levels"]:
        return torch.arange(self.levels, dtype=torch.float32) - self.levels // 2

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
    if variant == "symmetric" and levels % 2 == 0:
        levels -= 1
    if levels < 2:
        raise FormatError("a symmetric integer of 1 bit has only the value 0", "use int@1 or int(levels=3)")
    if variant == "asymmetric" and levels % 2:
        raise FormatError(f"an asymmetric integer has an even number of levels, not {levels}", "leave variant out")
    return Integer(levels)
