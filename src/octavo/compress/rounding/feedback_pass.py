"""Rounding a model with error feedback, layer by layer, into a checkpoint and within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from threading import Lock

from torch import Tensor

from octavo.base.errors import about
from octavo.calibrate.hessian import Outset
from octavo.checkpoints import CheckpointWriter
from octavo.compress.plan import Plan, PlanEntry
from octavo.compress.planning import Subject
from octavo.compress.rounding.error_feedback import Elimination
from octavo.compress.rounding.layers import quantize_with_feedback, round_layers
from octavo.compress.rounding.steering import SLOPE, Steering
from octavo.formats import Format
from octavo.formats.elements.grid import Grid
from octavo.formats.tensor import QuantizedTensor

TRIES = 6
"""Steps tried for the last tensor, which must fit into what is left."""


@dataclass(frozen=True, eq=False)
class FeedbackPass:
    """A pass through the layers.

    Attributes:
        plan: what to do; its entries with feedback are carried out.
        writer: takes the tensors.
        subject: the model and its sensitivity.
        budget: bits that coded tensors may take in all; None where their steps are to be those of the plan.
    """

    plan: Plan
    writer: CheckpointWriter
    subject: Subject
    budget: float | None

    def run(self, source: str | Path, device: str) -> Plan:
        """Write the tensors; the plan with the formats and sizes that they came to."""
        entries = {entry.name: entry for entry in self.plan.entries if entry.name in self.plan.fed_back}
        steering = self._steering(entries)
        one_at_a_time = Lock()

        def rounded(name: str, weights: Tensor, elimination: Elimination) -> Tensor:
            with about(name):
                format, quantized = self._fitted(entries[name], weights, elimination, steering)
            with one_at_a_time:
                steering.took(name, quantized.stored_bits)
                self.writer.write(name, quantized.parts, note=str(format))
            return quantized.dequantize()

        def begin(names: Sequence[str]) -> Outset:
            last = steering.begin(names)
            known = {}
            for name in names:
                if name in entries and self.writer.done(name):
                    # Counted only now: steps are what they would be had nothing been interrupted.
                    steering.took(name, 8 * self.writer.size(name))
                    format = Format.parse(self.writer.note(name))
                    known[name] = QuantizedTensor(format, entries[name].shape, self.writer.read(name)).dequantize()
            return Outset(known, 1 if last else self.subject.jobs)

        conditional = {name: v for name, v in self.subject.sensitivity.conditional.items() if name in entries}
        known = replace(self.subject.sensitivity, conditional=conditional)
        round_layers(source, known, device, self.subject.progress, rounded, begin)
        return replace(self.plan, entries=tuple(self._as_made(entry) for entry in self.plan.entries))

    def _steering(self, entries: dict[str, PlanEntry]) -> Steering:
        weights = {name: prod(entry.shape) for name, entry in entries.items()}
        planned = {name: entry.file_bits * weights[name] for name, entry in entries.items()}
        return Steering(sum(planned.values()) if self.budget is None else self.budget, planned, weights)

    def _fitted(
        self, entry: PlanEntry, weights: Tensor, elimination: Elimination, steering: Steering
    ) -> tuple[Format, QuantizedTensor]:
        """A tensor in its format, the step of a grid moved as the budget asks."""
        format = Format.parse(entry.format)
        row = self.subject.sensitivity.conditional[entry.name].row
        element = format.element
        if self.budget is None or not isinstance(element, Grid) or element.step is None:
            return format, quantize_with_feedback(format, weights, row, elimination)
        octaves, left = steering.octaves(entry.name), steering.left(entry.name)
        tries = 0
        while True:
            moved = replace(format, element=replace(element, step=element.step * 2.0**octaves))
            quantized = quantize_with_feedback(moved, weights, row, elimination)
            tries += 1
            if left is None or quantized.stored_bits <= left or tries == TRIES:
                return moved, quantized
            octaves += (quantized.stored_bits - left) / (SLOPE * weights.numel()) + 0.01

    def _as_made(self, entry: PlanEntry) -> PlanEntry:
        if entry.rounding != "feedback":
            return entry
        bits = 8 * self.writer.size(entry.name) / prod(entry.shape)
        return replace(entry, format=self.writer.note(entry.name), file_bits=bits)
