"""A plan: which format every tensor gets, what that costs and what it is expected to lose. JSON that may be edited."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal

from octavo.base.errors import BudgetError
from octavo.formats import Format

BudgetOf = Literal["file", "memory"]


@dataclass(frozen=True)
class PlanEntry:
    """One tensor's share of a plan.

    Attributes:
        name: the tensor, as its checkpoint names it.
        shape: its shape.
        format: format string.
        file_bits: expected bits per weight in the file.
        resident_bits: bits per weight in memory.
        predicted_loss: expected KL divergence in nats per token from quantizing this tensor alone; in units of its own
            relative squared error, weighted by size, where the sensitivity is uniform.
        rounding: "nearest", or "feedback" where later columns make up for the errors of earlier ones.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    file_bits: float
    resident_bits: float
    predicted_loss: float
    rounding: Literal["nearest", "feedback"] = "nearest"


@dataclass(frozen=True)
class Plan:
    """Formats for the tensors of a checkpoint; tensors that are not named stay as they are.

    Attributes:
        entries: one for each quantized tensor, by name.
        budget: bits that everything the budget counts may take; None for a fixed format.
        budget_of: whether the file's or the memory's bits are counted.
        counted: weights over which the budget is spread: all tensors but those excluded by hand.
        kept_bits: bits of the tensors that are counted but kept as they are.
        step: common step of water-filled grids, None if the plan has none.
        uniform_loss: predicted loss of the best plan with one and the same format or rate for all tensors.
        gap: how far the plan's predicted loss may lie above the best possible choice, as a fraction; None if unknown.
        sensitivity: "fisher" or "uniform".
        transform: the fields of what is folded into the weights first (`compress.transforming.Transform`), or None.
    """

    entries: tuple[PlanEntry, ...]
    budget: int | None
    budget_of: BudgetOf
    counted: int
    kept_bits: int
    step: float | None = None
    uniform_loss: float = float("nan")
    gap: float | None = None
    sensitivity: str = "uniform"
    transform: Mapping[str, Any] | None = None

    @property
    def predicted_loss(self) -> float:
        """Sum of the tensors' predicted losses."""
        return sum(entry.predicted_loss for entry in self.entries)

    @property
    def fed_back(self) -> frozenset[str]:
        """The tensors to which errors are fed back."""
        return frozenset(entry.name for entry in self.entries if entry.rounding == "feedback")

    @property
    def file_bits(self) -> float:
        """Expected bits per weight in the file, over all counted weights."""
        return (self.kept_bits + sum(e.file_bits * prod(e.shape) for e in self.entries)) / self.counted

    @property
    def resident_bits(self) -> float:
        """Bits per weight in memory, over all counted weights."""
        return (self.kept_bits + sum(e.resident_bits * prod(e.shape) for e in self.entries)) / self.counted

    def to_json(self) -> str:
        """JSON text; one entry a line, for editing by hand."""
        fields = {key: value for key, value in asdict(self).items() if key != "entries"}
        head = json.dumps(fields, indent=2)[:-2]
        lines = ",\n".join("    " + json.dumps(asdict(entry)) for entry in self.entries)
        return f'{head},\n  "entries": [\n{lines}\n  ]\n}}\n'

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan, perhaps edited.

        Raises:
            BudgetError: this is no plan.
            FormatError: a format string is unknown.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            entries = tuple(PlanEntry(**{**e, "shape": tuple(e["shape"])}) for e in fields.pop("entries"))
            plan = cls(entries=entries, **fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BudgetError(f"this is no plan ({error})", "edit the JSON that --save-plan wrote") from None
        for entry in plan.entries:
            Format.parse(entry.format)
            if entry.rounding not in ("nearest", "feedback"):
                raise BudgetError(f"{entry.name} has the rounding {entry.rounding!r}", "write nearest or feedback")
        return plan
