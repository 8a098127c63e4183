"""How much each tensor's weights matter: the Fisher information of a text, and a prior where the text is silent."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import exp, log, prod
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from octavo.base.errors import ModelError
from octavo.base.progress import SILENT, Progress
from octavo.calibrate.fisher import fisher
from octavo.calibrate.freeing import give_back_freed_memory
from octavo.calibrate.running import Samples
from octavo.calibrate.streamed import StreamingError
from octavo.calibrate.text import default_text, token_sequences
from octavo.checkpoints import open_checkpoint
from octavo.formats import Importance
from octavo.models import load_language_model
from octavo.models.streaming import load_streamed_model

T = TypeVar("T")

LENGTH, COUNT = 512, 16
"""Tokens a calibration sequence, and sequences, as far as the text goes."""

STREAMED_FROM = 1_000_000_000
"""Bytes in float32 above which a model's matrices stay on disk. Calibration then takes about half as long again (layers
are run a second time, matrices read up to three times a sequence), which small models need not pay."""

UNSEEN = 0.2
"""Occurrences that every token is credited with beyond those in the text: nearly all tokens are missing from it."""


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Importance by tensor name.

    Attributes:
        importance: what calibration found; empty where the sensitivity is uniform.
        unreached: matrices that no calibration token reached.
        tokens: calibration tokens.
        sequences: these tokens, or the inputs of another model by name; None where there are none.
        strengths: by parameter name, the squared gradient of each token at a matrix's outputs.
        conditional: importance of the tensors to which errors are fed back, as `compress.rounding` finds it.
        damping: of these tensors' second moments, as a fraction of the mean diagonal.
    """

    importance: Mapping[str, Importance]
    unreached: tuple[str, ...] = ()
    tokens: int = 0
    sequences: Samples | None = None
    strengths: Mapping[str, Tensor] = field(default_factory=dict)
    conditional: Mapping[str, Importance] = field(default_factory=dict)
    damping: Mapping[str, float] = field(default_factory=dict)

    @property
    def coverage(self) -> str | None:
        """One line on what calibration did not see; None where it saw everything."""
        if not self.unreached:
            return None
        names = ", ".join(self.unreached[:3]) + (" …" if len(self.unreached) > 3 else "")
        return (
            f"{len(self.unreached)} tensors were reached by none of the {self.tokens} calibration tokens and got the "
            f"typical importance of their kind: {names}"
        )

    def of(self, name: str, shape: tuple[int, ...], mean_square: float) -> Importance:
        """Importance of a tensor, in nats per token per squared weight.

        A calibrated tensor has its own; one that no token reached has the geometric mean of those whose names differ in
        numbers only (other layers, other experts), or of all. Without calibration, a relative error counts the same in
        every weight of the model.
        """
        found = self.conditional.get(name, self.importance.get(name))
        if found is not None:
            return found
        rows, columns = max(1, int(torch.tensor(shape[:-1]).prod())), shape[-1]
        level = 1 / max(mean_square, 1e-30)
        if self.importance:
            kind = _kind(name)
            alike = [v for other, v in self.importance.items() if _kind(other) == kind] or list(
                self.importance.values()
            )
            level = exp(sum(log(max(value.mean, 1e-30)) for value in alike) / len(alike))
        return Importance(torch.full((rows,), level), torch.ones(columns))


def _kind(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def calibrate(
    source: str | Path, calibration: str | Path | None, seed: int, device: str, progress: Progress, text: int = 1
) -> Sensitivity:
    """Fisher importance of every matrix of a language model.

    Args:
        source: the model.
        calibration: a text file; the default is a text that every Python has.
        seed: draws the sequences and their labels.
        device: where the model runs.
        progress: told how far it is.
        text: how many times the usual number of sequences to take.

    Raises:
        ModelError: the model predicts no tokens, has no tokenizer, or the text is too short.
    """
    return with_model(
        source, device, progress, lambda *loaded: _calibrated(loaded, source, calibration, seed, progress, text)
    )


def with_model(source: str | Path, device: str, progress: Progress, work: Callable[[Any, Any], T]) -> T:
    """What `work` makes of a model and its tokenizer.

    On the CPU the matrices of a model above `STREAMED_FROM` stay on disk and are read as they are used; a smaller one,
    and one that cannot be run so (the reason is told), is loaded in float32.
    """
    try:
        if device == "cpu" and _float32_bytes(source) > STREAMED_FROM:
            try:
                return work(*load_streamed_model(source))
            except StreamingError as error:
                progress.message(f"the whole model is loaded in float32, for {error.problem}")
        model, tokenizer = load_language_model(source)
        return work(model.to(device), tokenizer)
    finally:
        # A model is full of cycles and would stay in memory, all of it, while its tensors are quantized.
        model = None
        gc.collect()
        give_back_freed_memory()


def _calibrated(
    loaded: tuple[Any, Any],
    source: str | Path,
    calibration: str | Path | None,
    seed: int,
    progress: Progress,
    text: int,
) -> Sensitivity:
    model, tokenizer = loaded
    if tokenizer is None:
        raise ModelError(f"{source} has no tokenizer to calibrate with", "use --sensitivity uniform")
    generator = torch.Generator().manual_seed(seed)
    read = default_text() if calibration is None else Path(calibration)
    sequences = token_sequences(tokenizer, read, LENGTH, text * COUNT, generator=generator)
    return measure(model, sequences, generator, progress)


def _float32_bytes(source: str | Path) -> int:
    return sum(4 * prod(entry.shape) for entry in open_checkpoint(source).entries.values())


def measure(
    model: torch.nn.Module, sequences: Samples, generator: torch.Generator, progress: Progress = SILENT
) -> Sensitivity:
    """The sensitivity that given sequences show.

    Args:
        model: a transformers model that predicts tokens.
        sequences: token ids; of a model that reads something else as well, its inputs by name, in a batch of one: such
            as `input_features` and `decoder_input_ids` of one that transcribes speech.
        generator: draws labels from the model's predictions.
        progress: told how far it is.

    Raises:
        ModelError: the model predicts no tokens, or not finitely, or there are no sequences.
    """
    found = fisher(model, sequences, unseen=UNSEEN, generator=generator, progress=progress)
    return Sensitivity(found.importance, found.unreached, found.total, sequences, found.strengths)
