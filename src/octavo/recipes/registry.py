"""The recipes by name: one line each."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from octavo.base.errors import LawError
from octavo.recipes.recipe import Recipe


@dataclass(frozen=True)
class Entry:
    """Where a recipe is, and the claim it tries."""

    module: str
    claim: str
    source: str

    def load(self) -> Recipe:
        """Its function."""
        return importlib.import_module(self.module).cook


RECIPES: dict[str, Entry] = {
    "one-bit": Entry(
        "octavo.recipes.one_bit", "in the same memory, many weights of one bit beat few of more", "2602.15563"
    ),
    "precision-law": Entry(
        "octavo.recipes.precision_law", "a weight of P bits counts as 1 − e^(−P/γ) of one", "2602.15563"
    ),
    "overtraining": Entry(
        "octavo.recipes.overtraining", "the longer the pretraining, the more a change hurts", "2503.19206"
    ),
    "skill-scaling": Entry(
        "octavo.recipes.skill_scaling", "knowledge wants more parameters, reasoning more tokens", "2503.10061"
    ),
}


def find(name: str) -> Entry:
    """The recipe of that name.

    Raises:
        LawError: there is none.
    """
    if name not in RECIPES:
        raise LawError(f"there is no recipe {name!r}", f"there are {', '.join(RECIPES)}")
    return RECIPES[name]
