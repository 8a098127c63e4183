"""The recipes one-bit and precision-law: what networks take, what is compared, and that they come to an end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from octavo.formats import Format, QuantizedTensor
from octavo.formats.frozen import freeze
from octavo.laws.precision import PrecisionLaw
from octavo.laws.precision_fit import PrecisionFit
from octavo.laws.runs import Run
from octavo.laws.sweeps import Sweep
from octavo.layers.fake_quantized import FakeQuantizedLinear
from octavo.models.transformer import Transformer
from octavo.recipes import one_bit, precision_law
from octavo.recipes.quantized_models import CENTERED, FULL, KMEANS, UNIFORM, Centered, Shape, format_of, train_one
from octavo.recipes.recipe import Kitchen, Scale, Verdict
from octavo.training.precision import StartQuantizing
from octavo.training.precision.exporting import quantized_tensors

QUICK = Shape(64, 1, 2, 64)


class Here(Kitchen):
    """Does every job in this process."""

    def sweep(
        self,
        jobs: Sequence[dict[str, Any]],
        function: Callable[[dict[str, Any]], dict[str, Any]],
        description: str = "",
    ) -> Sweep:
        return Sweep([{**job, **function(job)} for job in jobs], [], 0, 0.0)


@pytest.mark.parametrize(("method", "bits"), [(FULL, 16), (KMEANS, 1), (KMEANS, 2), (KMEANS, 4), (UNIFORM, 1)])
def test_memory_is_what_would_be_stored(method: str, bits: int, generator: torch.Generator) -> None:
    shape = Shape(128, 2, 2, 192)
    model = Transformer(shape.config(256), generator, linear=FakeQuantizedLinear)
    assert shape.body == sum(each.weight.numel() for each in model.modules() if isinstance(each, FakeQuantizedLinear))
    format = format_of(method, bits)
    if format is not None:
        StartQuantizing(model, {"*": format}, 0)(0, model, torch.optim.SGD(model.parameters()))
    stored = codebooks = 0
    for _, tensor in quantized_tensors(model):
        if isinstance(tensor, QuantizedTensor):
            stored += tensor.stored_bits
            codebooks += 32 * 2**bits if "codebook" in tensor.parts else 0
        else:
            stored += 16 * tensor.numel()
    assert 8 * shape.bytes(method, bits, 256) == stored - codebooks


@pytest.mark.parametrize("scale", [Scale.default, Scale.gpu])
def test_fewer_bits_never_take_more_memory(scale: Scale) -> None:
    shapes = one_bit.PLANS[scale].matched
    full = shapes[16].bytes(FULL, 16, 256)
    for bits in (4, 1):
        assert 0.95 * full < shapes[bits].bytes(KMEANS, bits, 256) <= full
    assert scale is Scale.default or shapes[1].body >= 50_000_000


def test_formats_are_the_published_ones() -> None:
    assert format_of(KMEANS, 1) == "lloyd@1 b64 absmean:bf16"
    assert format_of(KMEANS, 4) == "lloyd@4 b64 absmax:bf16"
    assert format_of(UNIFORM, 1) == "int@1 b64 absmean:bf16"
    assert format_of(UNIFORM, 2) == "int(levels=3) b64 absmean:bf16"
    assert format_of(UNIFORM, 4) == "int(levels=15) b64 absmax:bf16"
    assert format_of(FULL, 16) is None
    assert all(format_of(method, bits) for method, bits in one_bit.EQUAL)


def test_centered_signs_leave_the_mean_out(generator: torch.Generator) -> None:
    weights = torch.randn(8, 128, generator=generator) + 0.7
    centered = Centered(freeze(Format.parse("int@1 b64 absmean:bf16"), weights))
    left = weights.unflatten(1, (2, 64))
    left = left - left.mean(-1, keepdim=True)
    expected = torch.where(left > 0, 1.0, -1.0) * left.abs().mean(-1, keepdim=True).bfloat16().float()
    assert torch.equal(centered.values(weights), expected.flatten(1))
    assert torch.equal(centered.quantize(weights).dequantize(), centered.values(weights))


def test_intervals_are_students() -> None:
    low, high = one_bit.interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3)), abs=1e-3)
    assert one_bit.interval([1.0]) == (-math.inf, math.inf)


@pytest.mark.parametrize("method", [FULL, CENTERED, KMEANS])
def test_a_run_is_a_function_of_its_job(method: str, tmp_path: Path) -> None:
    kitchen = Here(Scale.tiny, tmp_path)
    job = {
        "shape": [64, 1, 2, 64], "method": method, "bits": 16 if method == FULL else 1, "steps": 6, "batch": 2,
        "rate": 1e-3, "seed": 3, "moments": [3, 6], "decay": True, "held_out": 16, "text": one_bit.corpus(kitchen),
        "data": str(tmp_path / "data"), "device": "cpu",
    }  # fmt: skip
    one, other = train_one(job), train_one(job)
    assert one["losses"] == other["losses"]
    assert len(one["losses"]) == 2
    assert one["losses"][1] < one["losses"][0] < 6
    assert one["tokens"] == [3 * 2 * 128, 6 * 2 * 128]
    # Signs of what is centered have no codebook that flips could be counted in.
    assert (one["flips"] is None) == (method != KMEANS)


def test_one_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matched = {16: QUICK, 4: QUICK, 1: Shape(64, 2, 2, 64)}
    monkeypatch.setitem(one_bit.PLANS, Scale.tiny, one_bit.Plan(QUICK, matched, 2, 2, 3e-3, 3, 2, 16))
    found = one_bit.cook(Here(Scale.tiny, tmp_path, seed=5))
    assert len(found.lines) == 8
    assert {line.verdict for line in found.lines} <= {*Verdict}
    runs = [(*row["shape"], row["method"], row["bits"], row["seed"]) for row in found.figures["runs"]]
    assert len(runs) == len(set(runs))
    assert {each[-1] for each in runs} == {5, 6, 7}
    assert {each[-1] for each in runs if each[1] == 2} == {5, 6}
    equal = found.figures["equal"]
    assert f"{sum(equal['uniform@2']) / 3 - sum(equal['kmeans@2']) / 3:+.4f} nats" == found.lines[2].ours
    found.draw(Figure())


def test_precision_law(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fit itself has tests of its own; it would take most of the time."""
    plan = precision_law.Plan((QUICK,), (1, 2), 2, 3e-3, 2, 16, 0)
    monkeypatch.setitem(precision_law.PLANS, Scale.tiny, plan)
    intervals = {"alpha": (0.5, 0.8), "beta": (0.5, 0.6), "gamma": (1.0, 9.0)}
    fitted: list[list[Run]] = []

    def fit(runs: list[Run], **options: Any) -> PrecisionFit:
        fitted.append(runs)
        law = PrecisionLaw(0.6, 0.55, 3.0, 300.0, 500.0, 1.0)
        draws = tuple(replace(law, gamma=gamma) for gamma in np.linspace(2, 4, 21) + 0.1 * (len(fitted) == 2))
        return PrecisionFit(law, intervals, 0.9, 0.01, len(runs), ("a flag",), draws)

    monkeypatch.setattr(precision_law, "fit", fit)
    found = precision_law.cook(Here(Scale.tiny, tmp_path))
    quantities = [line.quantity for line in found.lines]
    assert quantities[:3] == ["α, k-means", "β, k-means", "γ, k-means"]
    assert "best bits in 8 GB by our integers law" in quantities
    assert [line.verdict for line in found.lines[:3]] == [Verdict.holds, Verdict.fails, Verdict.undecided]
    assert [sorted({run.bits for run in runs}) for runs in fitted] == [[1, 2, 4, 16]] * 2
    assert found.figures["fits"]["kmeans"]["runs"] == 4 * 2 * 2
    assert {(row["seed"], row["steps"]) for row in found.figures["runs"]} == {(0, 1), (0, 2), (1, 1), (1, 2)}
    # Resamples are compared in pairs, so that the shift of all of them is told from their spread.
    assert (found.lines[-1].interval, found.lines[-1].verdict) == ("+0.10 … +0.10", Verdict.holds)
    assert "k-means: a flag" in found.notes
    found.draw(Figure())
