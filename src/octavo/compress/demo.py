"""The main job from end to end: the embedded model is folded into a few budgets, measured, and a report is written.

The embedded weights lie on a 4-bit grid (they come from a Q4_1 file), so that a 4-bit format could reproduce them
exactly and its figures would say nothing. The demo therefore works on the *permuted reference*: one random permutation
of the residual channels and of each layer's inner channels, which changes no logit but takes every weight off the grid.

Every finished piece of work leaves a record beside the models and is not done again.
"""

from __future__ import annotations

import json
import math
import platform
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

import octavo
from octavo.base.errors import OutputError
from octavo.base.progress import SILENT, Progress
from octavo.calibrate.text import heldout_text, token_sequences
from octavo.checkpoints import Checkpoint, open_checkpoint
from octavo.compress import Plan, compress
from octavo.compress.attribution import measured_losses
from octavo.compress.description import file_name
from octavo.compress.records import recalled, remember, remembered
from octavo.compress.remembering import remembered_sensitivity
from octavo.compress.report import Original, Point, ReportData, Result, TensorRow, write_report
from octavo.measure.rate_distortion import relative_error
from octavo.models import load_language_model
from octavo.models.evaluate import Evaluation, evaluate_each
from octavo.models.permute import write_permuted_reference

SOURCE = "smollm2-135m"
SUBJECT = (
    "SmolLM2-135M-Instruct, its permuted reference: the embedded weights lie on a 4-bit grid, so before anything is "
    "measured its channels are permuted, which changes no logit and takes the weights off the grid."
)
PROMPT = "The first thing a traveler notices about the old library is"
SAMPLE_TOKENS = 40
TRIED = (
    "cbrt-t(df=7)@5 b64 absmax:bf16",
    "nf4 b64 absmax:bf16",
    "int@4 b64 absmax:bf16",
    "cbrt-t(df=7)@3 b64 absmax:bf16",
)
"""Formats that the report compares with."""

MEASURED_TENSORS, MEASURED_TOKENS = 24, 192


class Weight(Protocol):
    """A quantized tensor of a loaded model."""

    def dense(self) -> Tensor:
        """The values that it stands for."""
        ...


class Tools(Protocol):
    """What the demo takes from the room above it: how a loaded model is used."""

    def weights(self, model: Any) -> Mapping[str, Weight]:
        """The model's quantized tensors by their names in the checkpoint."""
        ...

    def write(self, model: tuple[Any, Any], prompt: str, tokens: int) -> str:
        """The likeliest continuation of `prompt` by a (model, tokenizer)."""
        ...


@dataclass(frozen=True)
class Demo:
    """One run's choices. See `run_demo`."""

    out: Path
    tools: Tools
    length: int
    count: int
    seed: int
    progress: Progress
    _loaded: dict[Path, tuple[Any, Any]] = field(default_factory=dict)

    def load(self, model: Path) -> tuple[Any, Any]:
        """A model and its tokenizer, loaded once: decoding one takes as long as evaluating it."""
        if model not in self._loaded:
            self.progress.message(f"loading {model.name}")
            self._loaded[model] = load_language_model(model)
        return self._loaded[model]

    @property
    def reference(self) -> Path:
        return self.out / "reference"

    def record(self, name: str) -> Path:
        return self.out / "records" / f"{name}.json"


def run_demo(
    out: str | Path,
    tools: Tools,
    *,
    bits: Sequence[float] = (4.0, 3.0, 2.0),
    tried: Sequence[str] = TRIED,
    source: str | Path = SOURCE,
    length: int = 512,
    count: int = 8,
    seed: int = 0,
    progress: Progress = SILENT,
) -> ReportData:
    """Compress `source` to each budget, evaluate on held-out text, write OUT/report.html, and return what it shows.

    Args:
        out: directory for the models, the records and the report; finished work in it is used again.
        tools: how a finished model is read and made to write.
        bits: budgets in bits per compressed weight, as stored in the file.
        tried: formats to compare with, each for all tensors.
        source: a model of the Llama family.
        length: tokens a held-out sequence.
        count: held-out sequences, at least two for an error.
        seed: of the permutation, the calibration and the choice of sequences and tensors.
        progress: told what is going on.

    Raises:
        OctavoError: the model is not installed, a budget is impossible, an output is in the way.
    """
    demo = Demo(Path(out), tools, length, count, seed, progress)
    demo.out.mkdir(parents=True, exist_ok=True)
    if not demo.reference.exists():
        write_permuted_reference(source, demo.reference, torch.Generator().manual_seed(seed), progress)
    original = open_checkpoint(demo.reference)
    models = [demo.out / f"{budget:g}-bits" for budget in bits]
    others = [demo.out / "tried" / file_name(format) for format in tried]
    facts = [_compress(demo, original, model, bits=budget) for model, budget in zip(models, bits, strict=True)]
    facts += [_compress(demo, original, model, format=format) for model, format in zip(others, tried, strict=True)]
    losses = _losses(demo, original, [*models, *others])
    results = [
        _result(demo, original, *of_one, measure_tensors=of_one[1] == _middle(bits))
        for of_one in zip(models, bits, facts, losses, strict=False)
    ]
    points = [
        Point(format, "one format for all tensors", fact["file_bits"], loss["divergence"], loss["divergence_error"])
        for format, fact, loss in zip(tried, facts[len(bits) :], losses[len(bits) :], strict=True)
    ]
    data = ReportData(
        title=f"{source}, folded",
        subject=SUBJECT if source == SOURCE else f"{source}, its channels permuted, which changes no logit.",
        text=f"{count} sequences of {length} tokens of docstrings of Python's library, which calibration never saw",
        prompt=PROMPT,
        original=_original(demo, original, losses[0]["reference_perplexity"]),
        results=tuple(results),
        points=tuple(points),
        command=f"octavo demo --out {out} --bits {','.join(f'{budget:g}' for budget in bits)}",
        versions={"octavo": octavo.__version__, "torch": torch.__version__, "python": platform.python_version()},
    )
    write_report(demo.out / "report.html", data)
    return data


def _middle(bits: Sequence[float]) -> float:
    return sorted(bits)[len(bits) // 2]


def _compress(
    demo: Demo, original: Checkpoint, model: Path, *, bits: float | None = None, format: str | None = None
) -> dict[str, Any]:
    """Compress to `model`, into a budget or a format, unless that is done; what `compress` had to say of it."""

    def make() -> dict[str, Any]:
        if model.exists():
            # Finished, but the run ended before its record was written, or made from another reference.
            _remove(model)
        # Calibrated once for all budgets; the notes stay in the demo's folder.
        known = remembered_sensitivity(
            demo.reference, original, demo.reference, "fisher", None, demo.seed, "cpu", demo.progress, feedback=True
        )
        # A plain format is what it is elsewhere: rounded to nearest.
        effort = "balanced" if format is None else "fast"
        done = compress(
            demo.reference, model, bits=bits, format=format, effort=effort, sensitivity=known, progress=demo.progress
        )
        return {
            "file_bits": done.file_bits_per_weight,
            "resident_bits": done.resident_bits_per_weight,
            "file_bytes": done.file_bytes,
            "seconds": done.seconds,
            "coverage": done.coverage,
            "plan": done.plan.to_json(),
        }

    record = demo.record(f"{model.name}-compressed")
    if not model.exists():
        record.unlink(missing_ok=True)
    return remembered(record, f"{original.fingerprint} {bits} {format} {demo.seed}", make)


def _remove(model: Path) -> None:
    """Remove a model that an earlier demo made; anything else is not ours to remove."""
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        ours = config["quantization_config"]["quant_method"] == "octavo"
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise OutputError(f"{model} is in the demo's way", "move it, or choose another --out")
    shutil.rmtree(model)


def _key(demo: Demo, original: Checkpoint, model: Path) -> str:
    """What the figures of a compressed model depend on."""
    return f"{original.fingerprint} {open_checkpoint(model).fingerprint} {demo.length} {demo.count} {demo.seed}"


def _losses(demo: Demo, original: Checkpoint, models: Sequence[Path]) -> list[dict[str, float]]:
    """Every model's evaluation; the reference runs once for all that have no record of one."""
    records = [(demo.record(f"{model.name}-loss"), _key(demo, original, model)) for model in models]
    found = [recalled(*record) for record in records]
    missing = [i for i, loss in enumerate(found) if loss is None]
    if missing:
        loaded = [demo.load(models[i]) for i in missing]
        evaluations = evaluate_each(
            loaded,
            demo.load(demo.reference),
            length=demo.length,
            count=demo.count,
            seed=demo.seed,
            progress=demo.progress,
        )
        for i, evaluation in zip(missing, evaluations, strict=True):
            found[i] = remember(*records[i], _loss(evaluation))
    return found


def _result(
    demo: Demo,
    original: Checkpoint,
    model: Path,
    budget: float,
    facts: dict[str, Any],
    loss: dict[str, float],
    measure_tensors: bool,
) -> Result:
    """Everything the report says of one compressed model."""
    key = _key(demo, original, model)
    errors = remembered(demo.record(f"{model.name}-errors"), key, lambda: _errors(demo, original, model))
    measured = {}
    if measure_tensors:
        path = demo.record(f"{model.name}-tensors")
        measured = remembered(path, key, lambda: _measured(demo, model))
    plan = Plan.from_json(facts["plan"])
    tensors = tuple(
        TensorRow(
            name=entry.name,
            shape=tuple(entry.shape),
            format=str(entry.format),
            file_bits=entry.file_bits,
            resident_bits=entry.resident_bits,
            predicted_loss=entry.predicted_loss,
            measured_loss=measured.get(entry.name),
            relative_error=errors.get(entry.name),
        )
        for entry in plan.entries
    )
    return Result(
        name=f"{budget:g} bits",
        format=_formats(tensors),
        file_bits=facts["file_bits"],
        resident_bits=facts["resident_bits"],
        file_bytes=facts["file_bytes"],
        divergence=loss["divergence"],
        divergence_error=loss["divergence_error"],
        agreement=loss["agreement"],
        agreement_error=loss["agreement_error"],
        perplexity=loss["perplexity"],
        seconds=facts["seconds"],
        predicted_loss=plan.predicted_loss,
        uniform_loss=plan.uniform_loss if math.isfinite(plan.uniform_loss) else None,
        coverage=facts["coverage"],
        sample=_sample(demo, model, key),
        tensors=tensors,
    )


def _formats(tensors: Sequence[TensorRow]) -> str:
    """The format that most weights have, and how many others there are."""
    weights = Counter()
    for tensor in tensors:
        weights[tensor.format] += math.prod(tensor.shape)
    most = weights.most_common(1)[0][0]
    return most if len(weights) == 1 else f"{most} and {len(weights) - 1} more"


def _loss(found: Evaluation) -> dict[str, float]:
    return {
        "divergence": found.kl,
        "divergence_error": found.kl_error,
        "agreement": found.agreement,
        "agreement_error": found.agreement_error,
        "perplexity": found.perplexity,
        "reference_perplexity": found.reference_perplexity,
    }


def _errors(demo: Demo, original: Checkpoint, model: Path) -> dict[str, float]:
    """Relative squared error of each quantized tensor."""
    weights = demo.tools.weights(demo.load(model)[0])
    names = demo.progress.track(sorted(weights), "comparing tensors", len(weights))
    return {name: relative_error(original.read(name), weights[name].dense()) for name in names}


def _measured(demo: Demo, model: Path) -> dict[str, float]:
    """Measured loss of some tensors, drawn at random, each compressed alone."""
    generator = torch.Generator().manual_seed(demo.seed)
    reference, tokenizer = demo.load(demo.reference)
    weights = demo.tools.weights(demo.load(model)[0])
    names = sorted(weights)
    drawn = [names[i] for i in torch.randperm(len(names), generator=generator)[:MEASURED_TENSORS].tolist()]
    sequences = token_sequences(tokenizer, heldout_text(), MEASURED_TOKENS // 2, 2, generator=generator)
    replacements = ((name, weights[name].dense()) for name in drawn)
    return measured_losses(reference, replacements, sequences, len(drawn), demo.progress)


def _original(demo: Demo, original: Checkpoint, perplexity: float) -> Original:
    entries = original.entries.values()
    size = sum(entry.nbytes for entry in entries)
    bits = 8 * size / sum(math.prod(entry.shape) for entry in entries)
    return Original("original", bits, size, perplexity, _sample(demo, demo.reference, original.fingerprint))


def _sample(demo: Demo, model: Path, key: str) -> str:
    path = demo.record(f"{model.name}-sample")
    return remembered(path, f"{key} {PROMPT}", lambda: demo.tools.write(demo.load(model), PROMPT, SAMPLE_TOKENS))
