"""`octavo compress … --qat STEPS`: after the plan is carried out, the weights themselves learn in its formats.

The student starts as the compressed model, with the scales, codebooks and groups that the plan's formats found, and
learns from the original's predictions on the calibration text, straight through the rounding. It is judged on held-out
calibration text now and then, and the best of these moments is what is stored; where none beats the compressed model,
nothing changes.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.optim import Optimizer

from octavo.base.errors import BudgetError, FormatError, ModelError
from octavo.base.progress import SILENT, Progress
from octavo.calibrate.freeing import give_back_freed_memory
from octavo.calibrate.text import default_text, token_sequences
from octavo.checkpoints import Checkpoint, CheckpointWriter
from octavo.compress.retraining import Retraining
from octavo.compress.tuning.held_out import HeldOut
from octavo.formats import Format
from octavo.formats.column_groups import ColumnGroups
from octavo.formats.elements.element import Element
from octavo.formats.tensor import QuantizedTensor
from octavo.models.loading import context_length, load_language_model
from octavo.models.streaming import load_streamed_model
from octavo.training.configuration import (
    CheckpointingConfig,
    OptimizerConfig,
    PrecisionConfig,
    ScheduleConfig,
    TrainingConfig,
)
from octavo.training.precision.distillation import Distillation
from octavo.training.precision.trainee import Trainee
from octavo.training.trainer import train

HELD_OUT = 8
"""Sequences that are judged on and never learned from; of a short text, up to a quarter."""

MOST = 4096
"""Sequences at most."""

CHECKS = 4
"""Times that the model is judged."""


@dataclass(frozen=True)
class Trainer:
    """Trains a compressed model (see octavo.compress.retraining.Retrainer).

    Attributes:
        steps: of the optimizer.
        calibration: a text file; None for a text that every Python has.
        length: tokens a sequence.
        sequences: a step.
        learning_rate: the highest, in root mean squares of a matrix a step.
        seed: draws the order of the sequences.
        device: where the models run.
        progress: told how far it is.
    """

    steps: int
    calibration: str | Path | None = None
    length: int = 512
    sequences: int = 1
    learning_rate: float = 1e-3
    seed: int = 0
    device: str = "cpu"
    progress: Progress = SILENT

    def check(self, source: str | Path, formats: Collection[Format]) -> None:
        """Refuse what is going to be impossible (see `Retrainer.check`).

        Raises:
            BudgetError: there are no steps.
            FormatError: rounding to a format takes seconds a matrix.
            ModelError: the source predicts no tokens, has no tokenizer, or the text is too short.
        """
        if self.steps < 1:
            raise BudgetError(f"nothing can be learned in {self.steps} steps", "give at least 1")
        _check_formats(formats)
        self._texts(source)

    def run(
        self,
        source: str | Path,
        checkpoint: Checkpoint,
        excluded: Collection[str],
        writer: CheckpointWriter,
        formats: Mapping[str, Format],
    ) -> Retraining:
        """Train, and revise the tensors of `writer` (see `Retrainer.run`).

        An interrupted run goes on from its last checkpoint. Memory: the model in float32 five times (twice the model,
        gradients, and Adam's moments), one step's activations, and some slices of logits.
        """
        began = time.monotonic()

        def read(name: str) -> QuantizedTensor | Tensor:
            parts = writer.read(name)
            return QuantizedTensor(formats[name], checkpoint.entry(name).shape, parts) if name in formats else parts[""]

        held_out, texts = self._texts(source)
        try:
            original, _ = load_language_model(source)
            original = original.to(self.device).requires_grad_(False)
            trainee = Trainee(checkpoint, read, self.device)
            best = _Best(HeldOut(original, held_out), trainee, math.ceil(self.steps / CHECKS))
            place = writer.partial / f"training-{self.steps}"
            config = self._config()
            done = train(
                trainee.model, Distillation(original), _Rows(texts, self.sequences), config,
                directory=place, hooks=[best], progress=self.progress,
            )  # fmt: skip
            if not done.finished:
                raise KeyboardInterrupt
            best.look()
            for name, parts in best.parts.items():
                writer.revise(name, parts)
            before, after = best.before, best.divergence
        finally:
            # Models are full of cycles.
            original = trainee = best = None
            gc.collect()
            give_back_freed_memory()
        return Retraining(self.steps, done.tokens, time.monotonic() - began, before, after)

    def _config(self) -> TrainingConfig:
        return TrainingConfig(
            steps=self.steps,
            seed=self.seed,
            optimizer=OptimizerConfig(learning_rate=self.learning_rate, weight_decay=0.0),
            schedule=ScheduleConfig("cosine", warmup=math.ceil(self.steps / 10)),
            precision=PrecisionConfig(device=self.device),
            checkpointing=CheckpointingConfig(every=max(10, self.steps // CHECKS), keep=1),
        )

    def _texts(self, source: str | Path) -> tuple[Int[Tensor, "held length"], Int[Tensor, "sequences length"]]:
        """What is judged on, and what is learned from."""
        model, tokenizer = load_streamed_model(source)
        if tokenizer is None:
            raise ModelError(f"{source} has no tokenizer to train with", "leave out the training")
        length = min(self.length, context_length(model) or self.length)
        text = default_text() if self.calibration is None else Path(self.calibration)
        found = token_sequences(tokenizer, text, length, MOST, torch.Generator().manual_seed(self.seed))
        if len(found) < 2:
            raise ModelError(f"the text is one sequence of {length} tokens, and training needs two", "give more text")
        count = max(1, min(HELD_OUT, len(found) // 4))
        return found[:count], found[count:]


def _check_formats(formats: Collection[Format]) -> None:
    for format in formats:
        elements = format.element.elements if isinstance(format.element, ColumnGroups) else (format.element,)
        if format.code != "fixed" or not all(isinstance(element, Element) for element in elements):
            raise FormatError(
                f"weights cannot learn in {format}: each step would round every matrix by a search",
                "give a budget alone, or scalars of fixed width such as lloyd@2 b64 absmean:bf16",
            )


class _Best:
    """A hook that judges the student now and then and keeps the best that it was.

    Args:
        held_out: what it is judged on.
        trainee: the student.
        every: steps between two looks.

    Attributes:
        before: divergence of the student before its first step, nats per token.
        divergence: the lowest since.
        parts: of the tensors at that moment; none as long as nothing was better than before.
    """

    def __init__(self, held_out: HeldOut, trainee: Trainee, every: int) -> None:
        self._held_out, self._trainee, self._every = held_out, trainee, every
        self.before = self.divergence = math.inf
        self.parts: dict[str, Mapping[str, Tensor]] = {}

    def __call__(self, step: int, model: nn.Module, optimizer: Optimizer) -> None:
        if step == 0:
            self.before = self.divergence = self._held_out.divergence(self._trainee)
        elif step % self._every == 0:
            self.look()

    def look(self) -> None:
        """Judge the student as it is now."""
        found = self._held_out.divergence(self._trainee)
        if found < self.divergence:
            self.divergence, self.parts = found, self._trainee.parts()

    def state_dict(self) -> dict[str, Any]:
        """What has been found so far."""
        found: dict[str, Any] = {"before": self.before, "divergence": self.divergence}
        for name, parts in self.parts.items():
            found |= {f"{name}/{part}": tensor for part, tensor in parts.items()}
        return found

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on from what was found."""
        self.before, self.divergence = float(state["before"]), float(state["divergence"])
        parts: dict[str, dict[str, Tensor]] = {}
        for entry, tensor in state.items():
            name, slash, part = entry.rpartition("/")
            if slash:
                parts.setdefault(name, {})[part] = tensor
        self.parts = dict(parts)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Sequences in their order, again and again (see octavo.training.sources.Source).

    Attributes:
        rows: token ids.
        count: of a batch.
    """

    rows: Int[Tensor, "sequences length"]
    count: int

    @property
    def tokens(self) -> int:
        return self.count * self.rows.shape[1]

    def batch(self, index: int) -> Mapping[str, Tensor]:
        places = torch.arange(index * self.count, (index + 1) * self.count) % len(self.rows)
        return {"tokens": self.rows[places]}
