"""NF4 and SF4: sixteen quantiles of the normal and of Student's t, as published; the tables are facts, not formulas.

Both take eight equally spaced probabilities from d to 1/2 and nine from 1/2 to 1-d, d = (1/32 + 1/30)/2, put them
through the quantile function and divide by the largest. NF4: Dettmers et al., "QLoRA" (arXiv 2305.14314), here the
float32 values of bitsandbytes. SF4: Dotzel et al., "Learning from Students" (arXiv 2405.03103), Student's t with df=5.
"""

from __future__ import annotations

from dataclasses import dataclass

from octavo.base.errors import FormatError
from octavo.formats.elements.table import Table
from octavo.formats.elements.tokens import refuse_unknown

NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)

SF4 = (
    -1.0,
    -0.627780556678772,
    -0.45473599433898926,
    -0.3343307375907898,
    -0.23743437230587006,
    -0.15289871394634247,
    -0.07498246431350708,
    0.0,
    0.06551307439804077,
    0.13296473026275635,
    0.20466101169586182,
    0.28383469581604004,
    0.3758048415184021,
    0.4910755753517151,
    0.6567811369895935,
    1.0,
)

_TABLES = {"nf4": NF4, "sf4": SF4}


@dataclass(frozen=True)
class NormalFloat(Table):
    """A published table of quantiles on [-1, 1].

    Attributes:
        name: `nf4` or `sf4`.
    """

    name: str

    @property
    def levels(self) -> int:
        return len(self.values())

    def values(self) -> tuple[float, ...]:
        return _TABLES[self.name]

    def __str__(self) -> str:
        return self.name


def parse_normal_float(name: str, arguments: dict[str, str], levels: int | None) -> NormalFloat:
    """`nf4` or `sf4`, which take neither size nor arguments."""
    refuse_unknown(name, arguments, {})
    if levels is not None:
        raise FormatError(f"{name} has 16 levels, no other size", f"write {name}")
    return NormalFloat(name)
