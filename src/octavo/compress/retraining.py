"""Training the weights themselves in the formats of a plan: what a compression asks of whoever does it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from octavo.checkpoints import Checkpoint, CheckpointWriter
from octavo.formats import Format

RETRAINING = "retraining.json"
"""File in the output that says what training did."""


@dataclass(frozen=True)
class Retraining:
    """What training did.

    Attributes:
        steps: of the optimizer.
        tokens: trained on.
        seconds: that it took, judging included.
        before: KL(original ‖ compressed) on held-out calibration text before training, nats per token.
        after: the same of what was stored; equal to `before` where the weights of before were kept.
    """

    steps: int
    tokens: int
    seconds: float
    before: float
    after: float

    @property
    def summary(self) -> str:
        """One line for a user."""
        where = "on held-out calibration text"
        if self.after < self.before:
            return f"trained {self.steps} steps: KL {self.before:.4g} -> {self.after:.4g} nats/token {where}"
        return f"training did not lower the KL of {self.before:.4g} nats/token {where}: the untrained weights are kept"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Retraining:
        return cls(**json.loads(text))


class Retrainer(Protocol):
    """Trains a model under the formats of a plan, when everything is written and nothing assembled."""

    def check(self, source: str | Path, formats: Collection[Format]) -> None:
        """Refuse what is going to be impossible, before any work is done.

        Args:
            source: the original model.
            formats: that were asked for; none where a plan is still to be made.

        Raises:
            OctavoError: the formats cannot follow weights that learn, or the model cannot be trained.
        """
        ...

    def run(
        self,
        source: str | Path,
        checkpoint: Checkpoint,
        excluded: Collection[str],
        writer: CheckpointWriter,
        formats: Mapping[str, Format],
    ) -> Retraining:
        """Train, and revise the tensors of `writer`; nothing is revised where nothing is gained.

        Args:
            source: the original model.
            checkpoint: the same, opened.
            excluded: names of tensors to leave alone.
            writer: has every tensor.
            formats: of the quantized tensors.
        """
        ...
