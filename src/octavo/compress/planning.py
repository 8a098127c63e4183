"""From a checkpoint and a budget to a plan."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from octavo.base.errors import BudgetError, FormatError
from octavo.base.progress import Progress
from octavo.base.threads import in_threads
from octavo.calibrate.prediction import predicted_kl
from octavo.checkpoints import Checkpoint
from octavo.compress.allocation import check_possible, choose
from octavo.compress.menu import TRELLIS, Menu, menu, plain
from octavo.compress.plan import BudgetOf, Plan, PlanEntry
from octavo.compress.sampling import sampled_rows
from octavo.compress.selection import Selection
from octavo.compress.sensitivity import Sensitivity
from octavo.compress.water_filling import Weighted, find_level
from octavo.formats import Format, Importance, entropy_coded
from octavo.formats.column_groups import ColumnGroups
from octavo.formats.elements.grid import Grid
from octavo.formats.entropy_coded import separable_steps
from octavo.formats.format import matrix_shape
from octavo.formats.grid_resident import grown_bits
from octavo.formats.resident import resident_format

GRID_LIMIT = 6.0
"""Bits per weight above which fixed-width formats are tried too: grids have one byte a weight at most."""

STATES = 64
"""Of the trellis of water-filled grids."""

TRELLIS_FROM = 1 << 17
"""Weights of a typical tensor from which on a trellis is worth the frequency tables of its second quantizer."""

PARTS = 6
"""Entries in a file that columns of one fixed width have, at most."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Subject:
    """What a plan is for.

    Attributes:
        checkpoint: the model.
        selection: which of its tensors are quantized.
        sensitivity: how much they matter.
        jobs: tensors worked on at once, as far as together they are no larger than the largest.
        progress: told how far it is.
        learning: whether the weights are going to be trained in their formats, which have to be scalars then.
    """

    checkpoint: Checkpoint
    selection: Selection
    sensitivity: Sensitivity
    jobs: int
    progress: Progress
    learning: bool = False

    @property
    def calibrated(self) -> bool:
        """Whether a text has shown what matters."""
        return bool(self.sensitivity.importance)

    def read(self, name: str) -> tuple[Tensor, Importance]:
        """A tensor and its importance.

        Raises:
            FormatError: it has a NaN or an infinity.
        """
        tensor = self.checkpoint.read(name)
        square = mean_square(tensor)
        if not np.isfinite(square):
            raise FormatError(f"{name} has NaN or infinite weights", "repair the checkpoint, or --exclude the tensor")
        return tensor, self.sensitivity.of(name, tuple(tensor.shape), square)

    def plan(self, entries: Iterable[PlanEntry], budget: int | None, budget_of: BudgetOf, **found: Any) -> Plan:
        """A plan of these entries; `found` are the fields of `Plan` that not all plans have."""
        kind = "fisher" if self.calibrated else "uniform"
        counted, kept = self.selection.counted, self.selection.kept_bits
        fed_back = self.sensitivity.conditional
        entries = (replace(e, rounding="feedback" if e.name in fed_back else "nearest") for e in entries)
        return Plan(tuple(entries), budget, budget_of, counted, kept, sensitivity=kind, **found)

    def map(self, work: Callable[[str], T], description: str, names: Sequence[str] | None = None) -> Iterator[T]:
        """`work` on every quantized tensor, in order, several at once where memory allows."""
        names = self.selection.quantized if names is None else names
        sizes = {name: prod(self.selection.shapes[name]) for name in names}
        largest = max((prod(self.selection.shapes[name]) for name in self.selection.quantized), default=0)
        tracked = iter(self.progress.track(names, description, total=len(names)))
        for batch in batches(names, sizes, largest):
            yield from in_threads(work, [next(tracked) for _ in batch], min(self.jobs, len(batch)))
        for _ in tracked:
            pass


def batches(names: Sequence[str], sizes: dict[str, int], limit: int) -> Iterator[list[str]]:
    """Consecutive names, as many at a time as together do not exceed `limit`."""
    batch: list[str] = []
    for name in names:
        if batch and sum(sizes[other] for other in batch) + sizes[name] > limit:
            yield batch
            batch = []
        batch.append(name)
    if batch:
        yield batch


def mean_square(tensor: Tensor) -> float:
    """Mean square in float64, without a copy of the tensor; NaN or infinite where an element is."""
    flat = tensor.reshape(-1)
    total = 0.0
    for chunk in flat.split(1 << 22):
        total += float(chunk.float().square().sum(dtype=torch.float64))
    return total / max(1, flat.numel())


def default_jobs() -> int:
    return os.cpu_count() or 1


def budget_bits(bits: float | None, size: int | None, selection: Selection) -> int:
    """The budget in bits, from an average per weight or a size in bytes.

    Raises:
        BudgetError: it is not positive, or what is kept exceeds it already.
    """
    if bits is not None and not (np.isfinite(bits) and bits > 0):
        raise BudgetError(f"a budget of {bits} bits is impossible", "give a positive number, e.g. --bits 3.0")
    budget = int(bits * selection.counted) if bits is not None else 8 * (size or 0)
    if budget <= selection.kept_bits:
        raise BudgetError(
            f"norms and biases alone take {selection.kept_bits / 8e6:.2f} MB of a budget of {budget / 8e6:.2f} MB",
            "raise the budget",
        )
    return budget


def header_bits(selection: Selection, parts: int) -> int:
    """Bits of the file's header, at most, if every quantized tensor has `parts` entries."""
    entries = sum(parts * _entry_bytes(name) for name in selection.quantized)
    # Excluded tensors do not count, but their names are in the file.
    return 8 * (entries + sum(map(_entry_bytes, (*selection.kept, *selection.excluded))))


def _entry_bytes(name: str) -> int:
    """Bytes of an entry in the file's header, at most."""
    return len(name) + 110


def file_plan(subject: Subject, budget: int) -> Plan:
    """The best plan for a budget of stored bits: water-filled grids, unless something simpler should lose less.

    Codes of grids cannot follow weights that learn: then widths are fixed.
    """
    if subject.learning:
        return fixed_width_plan(subject, budget, "file")
    if budget <= GRID_LIMIT * subject.selection.counted:
        return water_filled_plan(subject, budget)
    fixed = fixed_width_plan(subject, budget, "file")
    try:
        plan = water_filled_plan(subject, budget)
    except BudgetError:  # small tensors, whose tables for so many indices are larger than their codes
        return fixed
    return min(plan, fixed, key=lambda found: found.predicted_loss)


def water_filled_plan(subject: Subject, budget: int) -> Plan:
    """One grid over the whole model, its common step the finest that the budget of stored bits allows.

    If that is predicted to lose more than one rate for all tensors (tiny models, whose tables weigh much), the latter.
    """
    selection = subject.selection

    def weighted(name: str) -> Weighted:
        tensor, importance = subject.read(name)
        rows, columns = matrix_shape(tuple(tensor.shape))
        return Weighted(name, tensor.reshape(rows, columns).float().numpy(), separable_steps(importance, rows, columns))

    shapes = {name: selection.shapes[name] for name in selection.quantized}
    states = STATES if sum(map(prod, shapes.values())) >= TRELLIS_FROM * len(shapes) else 1
    left = budget - selection.kept_bits - header_bits(selection, 1)
    level = find_level(
        lambda work, description: subject.map(lambda name: work(weighted(name)), description),
        shapes,
        left,
        states,
    )
    trellis = f",states={states}" if states > 1 else ""
    text = f"grid(step={level.step!r}{trellis}) separable ans"
    memory = subject.map(lambda name: memory_bits(Format.parse(text), *subject.read(name)), "measuring memory")
    entries = tuple(
        PlanEntry(name, shape, text, level.costs[name].bits / prod(shape), resident, level.costs[name].loss)
        for (name, shape), resident in zip(shapes.items(), memory, strict=True)
    )
    plan = subject.plan(entries, budget, "file", step=level.step, uniform_loss=sum(level.uniform.values()))
    if plan.predicted_loss <= plan.uniform_loss:
        return plan
    rate = left / sum(prod(shape) for shape in shapes.values())
    trellis = f"(states={states})" if states > 1 else ""
    entries = tuple(
        replace(
            entry,
            format=f"grid{trellis}@{rate!r} separable ans",
            file_bits=rate,
            predicted_loss=level.uniform[entry.name],
        )
        for entry in plan.entries
    )
    return replace(plan, entries=entries, step=None)


def menus_of(subject: Subject) -> list[Menu]:
    """What each tensor may be stored as at fixed width; the longest part of such a plan, and alike for all budgets."""

    def menu_of(name: str) -> Menu:
        return menu(*subject.read(name), mixed=subject.calibrated, trellis=not subject.learning)

    return list(subject.map(menu_of, "trying formats"))


def fixed_width_plan(subject: Subject, budget: int, budget_of: BudgetOf, menus: Sequence[Menu] | None = None) -> Plan:
    """The best choice of fixed widths for the groups of columns of each tensor.

    Args:
        subject: the model.
        budget: bits that everything may take.
        budget_of: whether that is of the file, with its header, or of the memory.
        menus: from `menus_of`, where they are known already.

    Raises:
        BudgetError: the smallest formats of the menu exceed the budget.
    """
    selection = subject.selection
    names = selection.quantized
    in_file = budget_of == "file"
    left = budget - selection.kept_bits - (header_bits(selection, 0) if in_file else 0)

    def entries_bits(name: str, format: Format) -> int:
        return 8 * _entry_bytes(name) * _entries(format) if in_file else 0

    # Before the formats are tried, which takes long.
    trellis = not subject.learning
    plainest = {name: plain(selection.shapes[name], subject.calibrated, trellis) for name in names}
    offered = {name: [Format.parse(text) for text in texts] for name, texts in plainest.items()}
    check_possible([[f.stored_bits(selection.shapes[n]) + entries_bits(n, f) for f in offered[n]] for n in names], left)
    menus = menus_of(subject) if menus is None else menus
    taken = [
        [size + entries_bits(name, Format.parse(text)) for text, size in zip(found.formats, found.sizes, strict=True)]
        for name, found in zip(names, menus, strict=True)
    ]
    chosen = choose(taken, [found.losses for found in menus], left)
    uniform = [
        sum(found.losses[index] for found in menus)
        for index in range(len(TRELLIS) + 1)
        if sum(each[index] for each in taken) <= left
    ]
    entries = []
    for name, found, pick in zip(names, menus, chosen.picks, strict=True):
        bits = found.sizes[pick] / prod(selection.shapes[name])
        entries.append(PlanEntry(name, selection.shapes[name], found.formats[pick], bits, bits, found.losses[pick]))
    return subject.plan(entries, budget, budget_of, uniform_loss=min(uniform, default=float("nan")), gap=chosen.gap)


def _entries(format: Format) -> int:
    """Entries in a file that a tensor of fixed width has, at most."""
    return 1 + PARTS * (len(format.element.elements) if isinstance(format.element, ColumnGroups) else 1)


def fixed_format_plan(subject: Subject, text: str) -> Plan:
    """The same format for every tensor, no budget."""
    format = Format.parse(text)
    selection = subject.selection

    def entry(name: str) -> PlanEntry:
        shape = selection.shapes[name]
        tensor, importance = subject.read(name)
        sample, weight, factor = sampled_rows(tensor, importance)
        fixed = format.code == "fixed"
        file_bits = format.bits(shape) if fixed else format.quantize(sample, weight).bits_per_weight
        resident = memory_bits(format, tensor, importance)
        loss = factor * predicted_kl(weight, format.fake_quantize(sample, weight) - sample)
        return PlanEntry(name, shape, str(format), file_bits, resident, loss)

    plan = subject.plan(subject.map(entry, "planning"), None, "file")
    return replace(plan, uniform_loss=plan.predicted_loss)


def memory_bits(format: Format, tensor: Tensor, importance: Importance) -> float:
    """Bits per weight of a tensor in memory, those of a grid judged on some of its rows."""
    shape = tuple(tensor.shape)
    if not isinstance(format.element, Grid):
        return resident_format(format).bits(shape)
    sample, weight, factor = sampled_rows(tensor, importance)
    held = entropy_coded.decoded(format.quantize(sample, weight))
    return grown_bits(held.parts, factor) / prod(shape)
