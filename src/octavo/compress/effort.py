"""How much work a compression is worth: presets of the choices that cost time and save loss."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.base.errors import BudgetError


@dataclass(frozen=True)
class Effort:
    """A preset.

    Attributes:
        sensitivity: "fisher" calibrates on a text, "uniform" needs none.
        feedback: whether rounding feeds errors back, layer by layer; needs a text.
        text: how many times the usual number of calibration sequences is taken.
    """

    sensitivity: str
    feedback: bool
    text: int


EFFORTS = {
    "fast": Effort("uniform", feedback=False, text=1),
    "balanced": Effort("fisher", feedback=True, text=1),
    "best": Effort("fisher", feedback=True, text=3),
}


def effort_of(name: str) -> Effort:
    """The preset of a name.

    Raises:
        BudgetError: there is none.
    """
    if name not in EFFORTS:
        raise BudgetError(f"unknown effort {name!r}", f"choose one of {', '.join(EFFORTS)}")
    return EFFORTS[name]
