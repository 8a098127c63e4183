"""The uniform grid without ends: every multiple of a step is a value, so only an entropy code can store the indices.

At moderate and high rates, the uniform grid behind an entropy coder is the scalar quantizer of least squared error for
any source (Gish and Pierce, IEEE Trans. Information Theory 14, 1968). A trellis of two such grids, halfway between each
other, comes nearer to the rate-distortion bound (octavo.kernels.trellis).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from octavo.base.errors import FormatError
from octavo.kernels.trellis import polynomials

_TOKEN = re.compile(
    r"grid(?:\((?:step=(?P<step>[0-9.eE+-]+))?,?(?:states=(?P<states>[0-9]+))?\))?(?:@(?P<rate>[0-9.eE+-]+))?"
)


@dataclass(frozen=True)
class Grid:
    """All whole multiples of a step.

    Attributes:
        rate: target of the entropy code in bits per weight; the step is found from the tensor. None if `step` is given.
        step: distance of neighbors in units of the scale. None if `rate` is given.
        states: of the trellis; 1 is a scalar grid.
    """

    rate: float | None = None
    step: float | None = None
    states: int = 1

    def __post_init__(self) -> None:
        given = [value for value in (self.rate, self.step) if value is not None]
        if len(given) != 1:
            raise FormatError("a grid has either a rate or a step", "write grid@3.0 or grid(step=0.013)")
        if not (math.isfinite(given[0]) and given[0] > 0):
            raise FormatError(f"a grid of {given[0]!r} is impossible", "give a rate in bits or a step above 0")
        if self.states != 1:
            polynomials(self.states)

    def __str__(self) -> str:
        """The token; a float prints so that it reads back exactly."""
        arguments = [] if self.step is None else [f"step={self.step!r}"]
        arguments += [] if self.states == 1 else [f"states={self.states}"]
        listed = f"({','.join(arguments)})" if arguments else ""
        return f"grid{listed}" + ("" if self.rate is None else f"@{float(self.rate)!r}")


def parse_grid(token: str) -> Grid:
    """`grid@3.0` (bits per weight) or `grid(step=0.0131)` (in units of the scale); `states=8` adds a trellis.

    Raises:
        FormatError: neither, or not a positive number.
    """
    match = _TOKEN.fullmatch(token)
    try:
        if match is None:
            raise ValueError
        rate, step, states = match["rate"], match["step"], int(match["states"] or 1)
        found = Grid(None if rate is None else float(rate), None if step is None else float(step), states)
    except ValueError:
        raise FormatError(f"{token!r} is no grid", "write grid@3.0, grid(step=0.013) or grid(states=8)@3.0") from None
    return found
