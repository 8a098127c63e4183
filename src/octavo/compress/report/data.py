"""What a report shows: frozen values that survive a round trip through JSON, so that a page can be drawn again."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from octavo.base.errors import OctavoError

VERSION = 1


@dataclass(frozen=True)
class TensorRow:
    """One compressed tensor. Bits are per weight; losses are in nats per token; the error is relative and squared."""

    name: str
    shape: tuple[int, ...]
    format: str
    file_bits: float
    resident_bits: float
    predicted_loss: float | None = None
    measured_loss: float | None = None
    relative_error: float | None = None

    @property
    def sqnr(self) -> float | None:
        """Signal over quantization noise in dB, or None where the error is unknown or nought."""
        if self.relative_error is None or self.relative_error <= 0:
            return None
        return -10 * math.log10(self.relative_error)


@dataclass(frozen=True)
class Result:
    """One compressed model, measured against the original on held-out text.

    Bits are per compressed weight, divergence (reference to compressed) in nats per token, agreement a fraction,
    each with its standard error.
    """

    name: str
    format: str
    file_bits: float
    resident_bits: float
    file_bytes: int
    divergence: float
    divergence_error: float
    agreement: float
    agreement_error: float
    perplexity: float
    seconds: float
    predicted_loss: float | None = None
    uniform_loss: float | None = None
    coverage: str | None = None
    sample: str = ""
    tensors: tuple[TensorRow, ...] = ()


@dataclass(frozen=True)
class Original:
    """The model before compression."""

    name: str
    bits: float
    file_bytes: int
    perplexity: float
    sample: str = ""


@dataclass(frozen=True)
class Point:
    """One more dot of the Pareto plot: a format or a peer that was tried but not kept."""

    label: str
    series: str
    bits: float
    divergence: float
    divergence_error: float = 0.0


@dataclass(frozen=True)
class ReportData:
    """Everything the page says.

    Args:
        title: the page's heading.
        subject: which model this is, and what was done to it before it was measured.
        text: the text that measured it, in words.
        prompt: what the samples continue.
        original: the model before compression.
        results: the compressed models, in the order of the table.
        points: further dots of the Pareto plot.
        command: what to type for the same report.
        versions: of the programs that made it.
    """

    title: str
    subject: str
    text: str
    prompt: str
    original: Original
    results: tuple[Result, ...]
    points: tuple[Point, ...] = ()
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The data as JSON text. Floats keep every bit; not-a-number and infinity are refused by `json`."""
        return json.dumps({"version": VERSION, **asdict(self)}, allow_nan=False, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> ReportData:
        """Read what `to_json` wrote. Raises OctavoError for anything else."""
        try:
            values = json.loads(text)
            if values.pop("version") != VERSION:
                raise ValueError("another version")
            values["original"] = Original(**values["original"])
            values["results"] = tuple(_result(result) for result in values["results"])
            values["points"] = tuple(Point(**point) for point in values["points"])
            return ReportData(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise OctavoError(f"these are not the data of a report ({error})", "write the report again") from error


def _result(values: dict[str, Any]) -> Result:
    tensors = tuple(TensorRow(**{**row, "shape": tuple(row["shape"])}) for row in values["tensors"])
    return Result(**{**values, "tensors": tensors})
