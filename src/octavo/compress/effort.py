"""How much work a compression is worth: presets of the choices that cost time and save loss."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.base.errors import BudgetError


@dataclass(frozen=True)
class Effort:
    """A preset.

    Attributes:
        sensitivity: "fisher" calibrates on a text, "uniform" needs none.
        states: of the trellis of water-filled grids; 1 rounds every weight by itself.
        feedback: whether rounding feeds errors back, layer by layer; needs a text.
        stepwise: whether within a layer, too, inputs are measured after what comes before was rounded.
    """

    sensitivity: str
    states: int
    feedback: bool
    stepwise: bool


EFFORTS = {
    "fast": Effort("uniform", states=64, feedback=False, stepwise=False),
    "balanced": Effort("fisher", states=64, feedback=True, stepwise=False),
    "best": Effort("fisher", states=64, feedback=True, stepwise=True),
}


def effort_of(name: str) -> Effort:
    """The preset of a name.

    Raises:
        BudgetError: there is none.
    """
    if name not in EFFORTS:
        raise BudgetError(f"unknown effort {name!r}", f"choose one of {', '.join(EFFORTS)}")
    return EFFORTS[name]
