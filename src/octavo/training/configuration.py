"""Everything that decides how a run goes, as frozen values; read from TOML and changed field by field."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from octavo.base.errors import ConfigurationError
from octavo.training.settings import dotted, fields_of, replaced


@dataclass(frozen=True)
class ModelConfig:
    """The network, where the trainer is asked to make one.

    Attributes:
        hidden: width of the residual stream.
        layers: blocks.
        heads: query heads.
        shared_heads: key-value heads; 0 for as many as heads.
        inner: width of the feed-forward layers; 0 for 8/3 of hidden.
        theta: base of the rotary wavelengths.
        tied: whether the embedding is the head.
        start: a model to start from, whose sizes take the place of all these; empty for random weights.
    """

    hidden: int = 256
    layers: int = 4
    heads: int = 4
    shared_heads: int = 0
    inner: int = 0
    theta: float = 10_000.0
    tied: bool = True
    start: str = ""


@dataclass(frozen=True)
class DataConfig:
    """The text, and how it is cut.

    Attributes:
        text: text files and folders; none for the default corpus.
        tokenizer: `bytes`, `bpe` (trained on the text), or a tokenizer.json or a folder with one.
        vocabulary: tokens of a trained tokenizer.
        length: tokens a sequence.
        batch: sequences a micro-batch.
        held_out: share of the text that is never trained on.
        cache: folder for the tokenized text; empty for `data` in the run's folder.
    """

    text: tuple[str, ...] = ()
    tokenizer: str = "bpe"
    vocabulary: int = 4096
    length: int = 256
    batch: int = 8
    held_out: float = 0.02
    cache: str = ""


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights move.

    Attributes:
        name: of a registered optimizer.
        learning_rate: the highest of the schedule.
        weight_decay: of matrices; norms and biases have none.
        beta1, beta2: decay of the running means.
        epsilon: in the denominator.
        clip: greatest norm of the gradient; 0 for no clipping.
        accumulation: micro-batches a step, shared among the processes.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    clip: float = 1.0
    accumulation: int = 1


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate goes.

    Attributes:
        name: `cosine`, `wsd` (warm up, stay, decay linearly) or `constant`.
        warmup: steps of the linear rise from zero.
        decay: share of all steps in which `wsd` falls.
        floor: share of the learning rate at the end.
    """

    name: str = "cosine"
    warmup: int = 100
    decay: float = 0.1
    floor: float = 0.0


@dataclass(frozen=True)
class PrecisionConfig:
    """What is computed in.

    Attributes:
        dtype: of products; weights, gradients and optimizer stay in float32.
        compile: whether torch.compile fuses the model.
        recompute: whether the layers' activations are computed again in the backward pass instead of kept.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    recompute: bool = False
    device: str = "auto"


@dataclass(frozen=True)
class CheckpointingConfig:
    """What is kept of a run.

    Attributes:
        every: steps between checkpoints.
        keep: how many of the newest stay.
    """

    every: int = 500
    keep: int = 2


@dataclass(frozen=True)
class LoggingConfig:
    """What is written down of a run.

    Attributes:
        every: steps between lines of metrics.jsonl.
        evaluate: steps between evaluations on held-out data; 0 for only at the end.
        evaluation_batches: micro-batches of an evaluation.
        tensorboard: whether the metrics also go to TensorBoard.
    """

    every: int = 10
    evaluate: int = 0
    evaluation_batches: int = 16
    tensorboard: bool = False


@dataclass(frozen=True)
class DistributedConfig:
    """How processes that torchrun started share the work.

    Attributes:
        strategy: `ddp` (each holds everything) or `fsdp` (each holds a part); `none` for one process.
    """

    strategy: Literal["none", "ddp", "fsdp"] = "none"


@dataclass(frozen=True)
class TrainingConfig:
    """A run.

    Attributes:
        steps: of the optimizer.
        seed: of the initial weights, the order of the data and what the objective draws.
    """

    steps: int = 1000
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    checkpointing: CheckpointingConfig = field(default_factory=CheckpointingConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        for name, value in self.fields().items():
            low, high = _RANGES.get(name, (-math.inf, math.inf))
            if isinstance(value, int | float) and not low <= value <= high:
                bound = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
                raise ConfigurationError(f"{name} is {value}", f"give a number {bound}")

    def fields(self) -> dict[str, Any]:
        """Every field by its dotted name, such as `schedule.warmup`."""
        return fields_of(self)

    def changed(self, changes: Mapping[str, Any]) -> TrainingConfig:
        """A config with other values of fields, named as in `fields`.

        Args:
            changes: values, or what was typed on a command line where a field is no string.

        Raises:
            ConfigurationError: a name that is no field, or a value of the wrong type or out of range.
        """
        config = self
        for name, value in changes.items():
            config = replaced(config, name, value)
        return config

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """From nested tables, as TOML has them.

        Raises:
            ConfigurationError: as `changed`.
        """
        return cls().changed(dotted(values))

    @classmethod
    def from_toml(cls, path: str | Path) -> TrainingConfig:
        """Read a TOML file.

        Raises:
            ConfigurationError: the file cannot be read, is no TOML, or holds anything that `changed` refuses.
        """
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"cannot read {path} ({error.strerror})", "give a TOML file") from error
        except ValueError as error:
            raise ConfigurationError(f"{path} is not TOML ({error})", "`octavo train --example` prints one") from error
        try:
            return cls.from_mapping(values)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {error.problem}", error.remedy) from error


_RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, math.inf),
    "seed": (0, 2**63 - 1),
    "model.hidden": (1, math.inf),
    "model.layers": (1, math.inf),
    "model.heads": (1, math.inf),
    "model.shared_heads": (0, math.inf),
    "model.inner": (0, math.inf),
    "model.theta": (1, math.inf),
    "data.vocabulary": (257, 2**31),
    "data.length": (1, math.inf),
    "data.batch": (1, math.inf),
    "data.held_out": (0, 0.5),
    "optimizer.learning_rate": (0, math.inf),
    "optimizer.weight_decay": (0, math.inf),
    "optimizer.beta1": (0, 1),
    "optimizer.beta2": (0, 1),
    "optimizer.epsilon": (0, math.inf),
    "optimizer.clip": (0, math.inf),
    "optimizer.accumulation": (1, math.inf),
    "schedule.warmup": (0, math.inf),
    "schedule.decay": (0, 1),
    "schedule.floor": (0, 1),
    "checkpointing.every": (1, math.inf),
    "checkpointing.keep": (1, math.inf),
    "logging.every": (1, math.inf),
    "logging.evaluate": (0, math.inf),
    "logging.evaluation_batches": (1, math.inf),
}
