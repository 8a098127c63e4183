"""Tuning what a compression has written: which text, how long, and whether anything is gained."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from octavo.base.errors import BudgetError, ModelError
from octavo.base.progress import Progress
from octavo.calibrate.freeing import give_back_freed_memory
from octavo.calibrate.text import default_text, token_sequences
from octavo.checkpoints import Checkpoint, CheckpointWriter
from octavo.compress.sensitivity import LENGTH
from octavo.compress.tuning.best import Best
from octavo.compress.tuning.blocks import tune_blocks
from octavo.compress.tuning.clock import Clock
from octavo.compress.tuning.end_to_end import tune_end_to_end
from octavo.compress.tuning.held_out import HeldOut
from octavo.compress.tuning.student import Student
from octavo.formats import Format
from octavo.formats.tensor import QuantizedTensor
from octavo.models.loading import context_length, load_language_model
from octavo.models.streaming import load_streamed_model

HELD_OUT = 8
"""Sequences that are judged on and never tuned on; of a short text, up to a quarter."""

MOST = 1024
"""Sequences at most."""

BLOCK_SEQUENCES = 8
"""Sequences that layers are tuned on."""

BLOCK_SHARE = 0.3
"""Of the time, what layers are tuned in one by one."""

RATE = 5e-3
"""Of learning: what a parameter moves by in a step."""


@dataclass(frozen=True)
class Tuning:
    """What tuning did.

    Attributes:
        minutes: time it was given.
        block_steps: steps of single layers.
        steps: steps of the whole model.
        before: KL(original ‖ compressed) on held-out calibration text before tuning, nats per token.
        after: the same of what was stored; equal to `before` where the untuned parts were kept.
    """

    minutes: float
    block_steps: int
    steps: int
    before: float
    after: float

    @property
    def summary(self) -> str:
        """One line for a user."""
        where = "on held-out calibration text"
        if self.after < self.before:
            return f"tuned: KL {self.before:.4g} -> {self.after:.4g} nats/token {where}"
        return f"tuning did not lower the KL of {self.before:.4g} nats/token {where}: the untuned parts are kept"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Tuning:
        return cls(**json.loads(text))


@dataclass(frozen=True, eq=False)
class Tuner:
    """A tuning that is to come: all that can be refused about it has been looked at.

    Attributes:
        source: the original model.
        checkpoint: the same, opened.
        excluded: tensors to leave alone.
        sequences: the calibration text in random order; the first of them are held out.
        minutes: for everything.
        device: where the models run.
        progress: shown the time that has passed.
    """

    source: str | Path
    checkpoint: Checkpoint
    excluded: Collection[str]
    sequences: Int[Tensor, "sequences length"]
    minutes: float
    device: str
    progress: Progress

    def run(self, writer: CheckpointWriter, formats: Mapping[str, Format]) -> Tuning:
        """Tune the tensors that a writer has and revise them there; nothing is revised where nothing is gained.

        The result depends on how many steps the machine takes in the time. Memory: the model in float32 twice, and one
        sequence's activations and logits.

        Args:
            writer: has every tensor.
            formats: of the quantized tensors.
        """

        def read(name: str) -> QuantizedTensor | Tensor:
            parts = writer.read(name)
            if name not in formats:
                return parts[""]
            return QuantizedTensor(formats[name], self.checkpoint.entry(name).shape, parts)

        clock = Clock(60 * self.minutes, self.progress, "tuning (seconds)")
        try:
            original, _ = load_language_model(self.source)
            student = Student(self.checkpoint, read, self.excluded, self.device)
            return self._tuned(student, original.to(self.device).requires_grad_(False), writer, clock)
        finally:
            clock.stop()
            # Models are full of cycles.
            original = student = None
            gc.collect()
            give_back_freed_memory()

    def _tuned(self, student: Student, original: Any, writer: CheckpointWriter, clock: Clock) -> Tuning:
        count = max(1, min(HELD_OUT, len(self.sequences) // 4))
        held_out, rest = self.sequences[:count], self.sequences[count:]
        best = Best(HeldOut(original, held_out), student, clock)
        if not student.weights:
            return Tuning(self.minutes, 0, 0, best.before, best.before)
        until = clock.passed + BLOCK_SHARE * clock.left
        block_steps = tune_blocks(student, original, rest[:BLOCK_SEQUENCES], clock, until, RATE)
        if block_steps:
            best.measure(student)
            best.restore(student)
        steps = tune_end_to_end(student, original, rest, best, clock, RATE)
        if best.kl < best.before:
            best.restore(student)
            for weight in student.weights:
                writer.revise(weight.name, weight.parts())
        return Tuning(self.minutes, block_steps, steps, best.before, best.kl)


def tuner(
    source: str | Path,
    checkpoint: Checkpoint,
    excluded: Collection[str],
    minutes: float,
    calibration: str | Path | None,
    seed: int,
    device: str,
    progress: Progress,
) -> Tuner:
    """A tuning of a model that is going to be compressed.

    Args:
        source, checkpoint, excluded, minutes, device, progress: see `Tuner`.
        calibration: a text file; the default is a text that every Python has.
        seed: draws the order of the sequences.

    Raises:
        BudgetError: the minutes are none.
        ModelError: the source predicts no tokens, has no tokenizer, or the text is too short.
    """
    if not (math.isfinite(minutes) and minutes > 0):
        raise BudgetError(f"nothing can be tuned in {minutes:g} minutes", "give a time above 0")
    model, tokenizer = load_streamed_model(source)
    if tokenizer is None:
        raise ModelError(f"{source} has no tokenizer to tune with", "leave out the tuning")
    length = min(LENGTH, context_length(model) or LENGTH)
    text = default_text() if calibration is None else Path(calibration)
    sequences = token_sequences(tokenizer, text, length, MOST, torch.Generator().manual_seed(seed))
    if len(sequences) < 2:
        raise ModelError(f"the text is one sequence of {length} tokens, and tuning needs two", "give more text")
    return Tuner(source, checkpoint, excluded, sequences, minutes, device, progress)
