"""What lies in a checkpoint, dense or compressed: one tensor after the other, so that any size can be looked at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from octavo.base.progress import SILENT, Progress
from octavo.hub.stored import StoredModel, open_stored
from octavo.measure.statistics import describe


@dataclass(frozen=True)
class InspectedTensor:
    """One tensor of a checkpoint.

    Attributes:
        name: its Hugging Face name.
        shape: its shape.
        format: its format string if octavo compressed it, else its dtype.
        bits: bits per weight in the file, everything that belongs to the tensor counted.
        rms: root mean square of its values.
        kurtosis: fourth moment over the squared second, 3 for normal values; None if all are zero.
        df: degrees of freedom of the best-fit Student-t; None where no law can be fitted.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    bits: float
    rms: float
    kurtosis: float | None
    df: float | None


def inspect(source: str | Path, *, progress: Progress = SILENT) -> Iterator[InspectedTensor]:
    """Yield each tensor of a model directory (dense or compressed by octavo), GGUF file, embedded or hub name.

    Bits of a GGUF file's tensors are those of the dense values that octavo reads from it.

    Raises:
        CheckpointError: it cannot be read, or another tool has quantized it.
    """
    model = open_stored(source)
    for name in progress.track(model.names, "inspecting", len(model.names)):
        statistics = describe(model.dense(name).float())
        shape, format, bits = model.shape(name), _format(model, name), _stored_bits(model, name)
        weights = max(1, math.prod(shape))
        yield InspectedTensor(name, shape, format, bits / weights, statistics.rms, statistics.kurtosis, statistics.df)


def _format(model: StoredModel, name: str) -> str:
    if name in model.entries:
        return str(model.entries[name]["format"])
    return str(model.checkpoint.entry(name).dtype).removeprefix("torch.")


def _stored_bits(model: StoredModel, name: str) -> int:
    entries = [f"{name}.{part}" for part in model.parts[name]] if name in model.entries else [name]
    return sum(8 * model.checkpoint.entry(entry).nbytes for entry in entries)
