"""Keeping coded tensors within a budget while they are rounded one after the other.

What error feedback makes of a tensor is known when it is rounded, and its code is a little longer or shorter than that
of the original weights, which the plan counted. So the step moves along, by a hundredth of an octave or two, such that
what is left of the budget is what the tensors still to come are going to take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SLOPE = 0.9
"""Bits that a weight saves when its step doubles: one, but for weights that have next to none."""

FARTHEST = 0.5
"""Octaves that a step may move away from the plan's."""

TRUST = 0.1
"""The plan's count is believed as if so much of the model had come out as planned."""


@dataclass(eq=False)
class Steering:
    """Counts what tensors were planned to take and what they took.

    Attributes:
        budget: bits for all of them.
        planned: bits of each in the plan, by name.
        weights: how many weights each has.
    """

    budget: float
    planned: Mapping[str, float]
    weights: Mapping[str, int]
    _taken: dict[str, float] = field(default_factory=dict)
    _counted: Mapping[str, float] = field(default_factory=dict)

    def begin(self, names: Iterable[str]) -> bool:
        """Begin with some tensors, steps of which do not depend on each other's sizes and may be asked for at once.

        Returns:
            whether they are the last ones: then each depends on those before it.
        """
        last = self.planned.keys() <= self._taken.keys() | set(names)
        self._counted = self._taken if last else dict(self._taken)
        return last

    def took(self, name: str, bits: float) -> None:
        """Count a tensor."""
        self._taken[name] = bits

    def left(self, name: str) -> float | None:
        """What is left for a tensor if it is the last one, else None."""
        if self.planned.keys() - self._counted.keys() - {name}:
            return None
        return self.budget - sum(bits for other, bits in self._counted.items() if other != name)

    def octaves(self, name: str) -> float:
        """How far the step of a tensor should lie above the plan's, in octaves."""
        coming = self.planned.keys() - self._counted.keys() | {name}
        before = sum(bits for other, bits in self.planned.items() if other not in coming)
        prior = TRUST * sum(self.planned.values())
        taken = sum(bits for other, bits in self._counted.items() if other not in coming)
        expected = (taken + prior) / (before + prior) * sum(self.planned[other] for other in sorted(coming))
        missing = expected - (self.budget - taken)
        return min(FARTHEST, max(-FARTHEST, missing / (SLOPE * sum(self.weights[other] for other in coming))))
