"""Carrying out a plan: quantize tensor by tensor, write durably, resume where an earlier run was interrupted."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path

from torch import Tensor

from octavo.base.errors import BudgetError, OutputError, about
from octavo.base.progress import SILENT, Progress
from octavo.checkpoints import CheckpointWriter, open_checkpoint
from octavo.checkpoints.quantized import described, quantization_config
from octavo.compress.effort import effort_of
from octavo.compress.plan import BudgetOf, Plan, PlanEntry
from octavo.compress.planning import (
    Subject,
    budget_bits,
    default_jobs,
    file_plan,
    fixed_format_plan,
    fixed_width_plan,
    header_bits,
)
from octavo.compress.remembering import forget, partial_path, remembered_sensitivity
from octavo.compress.retraining import RETRAINING, Retrainer, Retraining
from octavo.compress.rounding.feedback_pass import FeedbackPass
from octavo.compress.selection import Selection, select
from octavo.compress.sensitivity import Sensitivity
from octavo.compress.transformed import forget_transformed, transformed_source
from octavo.compress.transforming import Transform
from octavo.compress.tuning import Tuner, Tuning, tuner
from octavo.formats import Format
from octavo.formats.resident import resident
from octavo.formats.tensor import QuantizedTensor

TUNING = "tuning.json"
"""File in the output that says what tuning did."""


@dataclass(frozen=True)
class CompressionResult:
    """What a compression made.

    Attributes:
        plan: the plan that was carried out.
        out: the directory.
        file_bits_per_weight: bits of the safetensors files (excluded tensors taken off) over all counted weights.
        resident_bits_per_weight: the same of the form that is kept in memory.
        file_bytes: size of the safetensors files.
        seconds: time from the start of this run.
        coverage: what calibration did not see, None if it saw everything.
        tuning: what fine-tuning did, None if none was asked for.
        retraining: what training the weights did, None if none was asked for.
    """

    plan: Plan
    out: Path
    file_bits_per_weight: float
    resident_bits_per_weight: float
    file_bytes: int
    seconds: float
    coverage: str | None
    tuning: Tuning | None
    retraining: Retraining | None = None


def plan(
    source: str | Path,
    *,
    bits: float | None = None,
    bytes: int | None = None,
    format: str | None = None,
    budget_of: BudgetOf = "file",
    effort: str = "balanced",
    sensitivity: str | Sensitivity | None = None,
    calibration: str | Path | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    jobs: int | None = None,
    device: str = "cpu",
    learning: bool = False,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Plan:
    """The plan for a budget, or for a fixed format. The arguments are those of `compress`.

    With `learning`, the plan is one whose formats can follow weights that learn: what a retrainer asks for.
    """
    checkpoint = open_checkpoint(source)
    selection = select(checkpoint, include, exclude)
    if format is not None:
        Format.parse(format)
    preset = effort_of(effort)
    kind = preset.sensitivity if sensitivity is None else sensitivity
    known = remembered_sensitivity(
        source, checkpoint, None, kind, calibration, seed, device, progress, preset.feedback, preset.text
    )
    subject = Subject(checkpoint, selection, known, jobs or default_jobs(), progress, learning)
    return _plan(subject, bits, bytes, format, budget_of)


def compress(
    source: str | Path,
    out: str | Path,
    *,
    bits: float | None = None,
    bytes: int | None = None,
    format: str | None = None,
    budget_of: BudgetOf = "file",
    effort: str = "balanced",
    sensitivity: str | Sensitivity | None = None,
    calibration: str | Path | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    jobs: int | None = None,
    device: str = "cpu",
    plan: Plan | None = None,
    transform: Transform | None = None,
    tune: float | None = None,
    retrainer: Retrainer | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> CompressionResult:
    """Fold a model into a budget of bits.

    An interrupted call, given again, goes on where it stopped and makes the same bytes. Memory: calibration holds what
    `compress.sensitivity.calibrate` says; everything after it the largest tensor, a few times, and nothing else. Only
    fine-tuning, if asked for, begins anew after an interruption, takes as many steps as the machine has time for, so
    that its bytes differ from run to run, and holds the model in float32 twice.

    Args:
        source: a Hugging Face directory, a GGUF file, a hub name or the name of an embedded model.
        out: directory to make; it must not exist.
        bits: budget, average bits per weight over all tensors that are not excluded, everything counted.
        bytes: budget, as the size of the file (or of the memory) without the excluded tensors.
        format: one format string for all tensors, instead of a budget.
        budget_of: whether the budget is of the file (entropy-coded grids) or of the memory (fixed width).
        effort: "fast" (needs no text), "balanced" or "best": see octavo.compress.effort.
        sensitivity: "fisher" (needs a text), "uniform" (needs nothing), or one measured already; by default the
            effort's.
        calibration: text file for "fisher"; by default a text that comes with Python.
        include: glob patterns; only matrices that match one are quantized.
        exclude: glob patterns of tensors to leave alone and out of the count.
        jobs: tensors worked on at once; by default one a core.
        device: where calibration runs.
        plan: a plan to follow instead of a budget.
        transform: folded into the weights first (octavo.compress.transforming); the budget then counts the transformed
            model's tensors, whose embedding and head are no longer one.
        tune: minutes of fine-tuning at the end: codes stay; scales, codebooks, steps, norm gains and biases are moved
            towards the original's predictions on the calibration text, in their own dtypes, so that sizes stay.
        retrainer: trains the weights themselves at the end, in formats of fixed width
            (octavo.training.precision.retraining makes one); not together with `tune`.
        seed: of the calibration's random choices.
        progress: told how far it is.

    Raises:
        BudgetError: no plan meets the budget, `tune` is no time, or there is a retrainer besides.
        CheckpointError, FormatError, ModelError, OutputError: the input or the output is unusable; see each.
        OctavoError: learning a transform diverged.
    """
    start = time.monotonic()
    if sum(choice is not None for choice in (bits, bytes, format, plan)) != 1:
        raise BudgetError("give exactly one of bits, bytes, format and plan", "for instance bits=3.0")
    if format is not None:
        Format.parse(format)
    if tune is not None and retrainer is not None:
        raise BudgetError("tuning and training exclude each other", "choose one")
    preset = effort_of(effort)
    out = Path(out)
    if out.exists() and not partial_path(out).exists():
        raise OutputError(f"{out} exists already", "remove it or choose another OUT")
    if transform is None and plan is not None and plan.transform is not None:
        transform = Transform.from_json(plan.transform)
    if transform is not None:
        source = transformed_source(source, out, transform, calibration, device, progress)
    checkpoint = open_checkpoint(source)
    selection = select(checkpoint, include, exclude)
    kind = preset.sensitivity if sensitivity is None else sensitivity
    asked = bits, bytes, format, plan and plan.to_json(), budget_of, include, exclude, seed, effort
    settings = [str(value) for value in asked]
    if retrainer is not None:
        settings.append("learning")  # another plan comes of the same budget
        given = [] if format is None else [format]
        given += [] if plan is None else [entry.format for entry in plan.entries]
        retrainer.check(source, [Format.parse(text) for text in given])
    request = hashlib.sha256(json.dumps([checkpoint.fingerprint, *settings]).encode()).hexdigest()
    feedback = preset.feedback if plan is None else bool(plan.fed_back)
    tuning = None
    if tune is not None:
        tuning = tuner(source, checkpoint, selection.excluded, tune, calibration, seed, device, progress)
    known = remembered_sensitivity(
        source, checkpoint, out, kind, calibration, seed, device, progress, feedback, preset.text
    )
    subject = Subject(checkpoint, selection, known, jobs or default_jobs(), progress, retrainer is not None)
    made = plan if plan is not None else _plan(subject, bits, bytes, format, budget_of)
    made = replace(_checked(made, selection), transform=None if transform is None else asdict(transform))
    run = _Run(subject, source, out, request, device, tuning, retrainer, start)
    for _ in range(4):
        result = run.carry_out(made)
        if isinstance(result, CompressionResult):
            forget(out)
            forget_transformed(out)
            return result
        # The code came out longer than counted (by less than a thousandth): a slightly coarser step.
        made = result
    raise BudgetError("the coded tensors do not fit into the budget", "raise the budget a little")


def _plan(subject: Subject, bits: float | None, size: int | None, format: str | None, budget_of: BudgetOf) -> Plan:
    if format is not None:
        return fixed_format_plan(subject, format)
    budget = budget_bits(bits, size, subject.selection)
    if budget_of == "file":
        return file_plan(subject, budget)
    return fixed_width_plan(subject, budget, budget_of)


def _checked(plan: Plan, selection: Selection) -> Plan:
    for entry in plan.entries:
        if selection.shapes.get(entry.name) != tuple(entry.shape):
            raise BudgetError(
                f"the plan's tensor {entry.name} of shape {entry.shape} is not in this model",
                "make a plan for this model",
            )
    return plan


@dataclass(frozen=True, eq=False)
class _Run:
    """What carries out plans.

    Attributes:
        subject: the model and its sensitivity.
        source: where the model is from.
        out: the directory to make.
        request: hash of everything that was asked for.
        device: where the model runs for error feedback.
        tuner: fine-tunes at the end, if that was asked for.
        retrainer: trains at the end, if that was asked for.
        start: when the run began, by the monotonic clock.
    """

    subject: Subject
    source: str | Path
    out: Path
    request: str
    device: str
    tuner: Tuner | None
    retrainer: Retrainer | None
    start: float

    def carry_out(self, plan: Plan) -> CompressionResult | Plan:
        """Write the model; a coarser plan instead where the file came out larger than its budget."""
        subject, checkpoint, out = self.subject, self.subject.checkpoint, self.out
        formats = {entry.name: Format.parse(entry.format) for entry in plan.entries}
        if missing := sorted(plan.fed_back - subject.sensitivity.conditional.keys()):
            raise BudgetError(
                f"no errors can be fed back in {missing[0]}, whose inputs no text has shown",
                "calibrate on a text, or write the rounding nearest into the plan",
            )
        key = f"{self.request} {hashlib.sha256(plan.to_json().encode()).hexdigest()}"
        plain = replace(subject, sensitivity=replace(subject.sensitivity, conditional={}))
        with CheckpointWriter(out, key, progress=subject.progress) as writer:

            def quantize(name: str) -> tuple[str, dict[str, Tensor]]:
                if writer.done(name):
                    return name, {}
                tensor, importance = plain.read(name)
                with about(name):
                    return name, dict(formats[name].quantize(tensor, importance).parts)

            for name, parts in subject.map(
                quantize, "quantizing", [name for name in formats if name not in plan.fed_back]
            ):
                if parts:
                    writer.write(name, parts)
            for name in checkpoint.names:
                if name not in formats and not writer.done(name):
                    writer.write(name, {"": checkpoint.read(name)})
            if plan.fed_back and not writer.finished:
                budget = None if plan.budget_of != "file" or plan.budget is None else _left(plan, writer, subject)
                made = FeedbackPass(plan, writer, subject, budget).run(self.source, self.device)
                formats |= {entry.name: Format.parse(entry.format) for entry in made.entries}
            else:
                made = plan
            tensors = {
                name: described(format, subject.selection.shapes[name], checkpoint.entry(name).dtype)
                for name, format in formats.items()
            }
            # What else a source says about itself, such as how its layers' inputs are to be rounded, stays true.
            quantization = {**(checkpoint.quantization or {}), **quantization_config(tensors)}
            excess = _excess(plan, writer, subject)
            if excess > 0 and plan.step is not None:
                return _coarser(plan, excess)
            made = _with_memory(made, writer)
            files = {"plan.json": made.to_json()}
            if self.tuner is not None and not writer.finished:
                files[TUNING] = self.tuner.run(writer, formats).to_json()
            if self.retrainer is not None and not writer.finished:
                excluded = subject.selection.excluded
                files[RETRAINING] = self.retrainer.run(self.source, checkpoint, excluded, writer, formats).to_json()
            writer.finish({**checkpoint.config, "quantization_config": quantization}, checkpoint.sidecars, files)
        result = _result(subject, made, out, self.start)
        # Who tunes or not works on the same pieces, and a run killed at its very end may have been the other.
        for what, found, asked in (
            ("tuning", result.tuning, self.tuner),
            ("training", result.retraining, self.retrainer),
        ):
            if (found is None) != (asked is None):
                raise OutputError(
                    f"{out} was finished {'without' if asked else 'with'} {what}", "remove it or choose another OUT"
                )
        return result


def _with_memory(plan: Plan, writer: CheckpointWriter) -> Plan:
    """The plan with what its coded tensors take in memory, now that they are known."""

    def known(entry: PlanEntry) -> PlanEntry:
        format = Format.parse(entry.format)
        if format.code == "fixed" or writer.finished:
            return entry
        quantized = QuantizedTensor(format, entry.shape, writer.read(entry.name))
        return replace(entry, resident_bits=resident(quantized).bits_per_weight)

    return replace(plan, entries=tuple(map(known, plan.entries)))


def _left(plan: Plan, writer: CheckpointWriter, subject: Subject) -> float:
    """Bits that the tensors of a feedback pass may take, a reserve taken off for their part of the header."""
    reserve = header_bits(subject.selection, 1)
    known = sum(8 * writer.size(name) for name in writer.names if name not in plan.fed_back)
    assert plan.budget is not None
    return plan.budget + 8 * _excluded(subject) - known - reserve


def _excess(plan: Plan, writer: CheckpointWriter, subject: Subject) -> int:
    """Bits above the budget."""
    if plan.budget is None or plan.budget_of != "file" or writer.finished:
        return 0
    return 8 * (writer.nbytes - _excluded(subject)) - plan.budget


def _excluded(subject: Subject) -> int:
    """Bytes of what the user took out of the count."""
    return sum(subject.checkpoint.entry(name).nbytes for name in subject.selection.excluded)


def _coarser(plan: Plan, excess: int) -> Plan:
    assert plan.step is not None
    step = plan.step * 2 ** (1.5 * excess / plan.counted + 1e-5)
    old, new = f"step={plan.step!r}", f"step={step!r}"
    return replace(plan, step=step, entries=tuple(replace(e, format=e.format.replace(old, new)) for e in plan.entries))


def _result(subject: Subject, plan: Plan, out: Path, start: float) -> CompressionResult:
    size = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    tuning, retraining = out / TUNING, out / RETRAINING
    resident = plan.kept_bits + sum(entry.resident_bits * prod(entry.shape) for entry in plan.entries)
    return CompressionResult(
        plan,
        out,
        8 * (size - _excluded(subject)) / plan.counted,
        resident / plan.counted,
        size,
        time.monotonic() - start,
        subject.sensitivity.coverage,
        Tuning.from_json(tuning.read_text()) if tuning.exists() else None,
        Retraining.from_json(retraining.read_text()) if retraining.exists() else None,
    )
