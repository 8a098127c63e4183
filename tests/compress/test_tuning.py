"""Fine-tuning after rounding: only continuous parts move, sizes stay, and held-out text never gets worse."""

from __future__ import annotations

import json
import math
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from packed_directory import ARCHITECTURES, FORMATS, VOCABULARY, make
from safetensors.torch import load_file

from octavo.base.errors import BudgetError, ModelError, OutputError
from octavo.base.progress import SILENT
from octavo.calibrate.running import logits
from octavo.checkpoints import CheckpointWriter, open_checkpoint
from octavo.compress import CompressionResult, compress
from octavo.compress.tuning import clock, running
from octavo.compress.tuning.end_to_end import divergence
from octavo.compress.tuning.student import Student
from octavo.hub.stored import open_stored
from octavo.measure.divergence import compare
from octavo.models.evaluate import evaluate

LENGTH = 64
CHOICES: tuple[dict[str, Any], ...] = (
    {"bits": 4.0},
    {"format": "lloyd@3 b16 absmax:s8"},
    {"format": "columns(int@8=16,lloyd@4=20,lloyd@3) b16 absmax:bf16"},
    {"format": "int@4 b16 absmax:bf16"},
    {"format": "cbrt-t(df=5)@3 b64 absmax:bf16 ans"},
    {"format": "nvfp4"},
    {"format": "mxfp4"},
)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short sequences, and a clock that goes on a tenth of a second each time somebody looks."""
    ticks = count()
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: next(ticks) / 10))
    monkeypatch.setattr(running, "LENGTH", LENGTH)


def run(source: Path, out: Path, text: Path, tune: float | None = 0.1, **options: Any) -> CompressionResult:
    return compress(source, out, **{"effort": "fast", "calibration": text, "tune": tune, **options})


def stored(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_only_continuous_parts_move_and_held_out_text_gains(
    tiny_llama: Path, text: Path, tmp_path: Path, choice: dict[str, Any]
) -> None:
    result, plain = (
        run(tiny_llama, tmp_path / "tuned", text, **choice),
        run(tiny_llama, tmp_path / "plain", text, None, **choice),
    )
    assert result.tuning is not None
    assert plain.tuning is None
    assert result.tuning.after < 0.97 * result.tuning.before
    assert result.tuning.steps > 1
    assert result.tuning.block_steps > 1
    assert json.loads((tmp_path / "tuned" / "tuning.json").read_text())["after"] == result.tuning.after
    assert (result.file_bytes, result.plan) == (plain.file_bytes, plain.plan)
    tuned, untuned = stored(tmp_path / "tuned"), stored(tmp_path / "plain")
    for name, before in untuned.items():
        assert (tuned[name].shape, tuned[name].dtype) == (before.shape, before.dtype)
        if name.rpartition(".")[2].startswith(("codes", "group")):
            assert torch.equal(tuned[name], before)
    assert any(not torch.equal(tuned[name], before) for name, before in untuned.items())


def test_what_is_reported_is_what_is_read_back(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    result = run(tiny_llama, tmp_path / "tuned", text, bits=4.0)
    run(tiny_llama, tmp_path / "plain", text, None, bits=4.0)
    made = running.tuner(tiny_llama, open_checkpoint(tiny_llama), (), 1, text, 0, "cpu", SILENT)
    held_out = made.sequences[: running.HELD_OUT]
    assert held_out.shape[1] == LENGTH
    assert result.tuning is not None
    for directory, expected in (("plain", result.tuning.before), ("tuned", result.tuning.after)):
        found = evaluate(tmp_path / directory, tiny_llama, held_out)
        assert found.kl == pytest.approx(expected, rel=1e-4)


def test_where_nothing_is_gained_the_untuned_parts_are_kept(
    tiny_llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "RATE", 3.0)
    result = run(tiny_llama, tmp_path / "tuned", text, bits=5.0)
    run(tiny_llama, tmp_path / "plain", text, None, bits=5.0)
    assert result.tuning is not None
    assert result.tuning.after == result.tuning.before
    assert "untuned parts are kept" in result.tuning.summary
    tuned = contents(tmp_path / "tuned")
    assert json.loads(tuned.pop("tuning.json"))["steps"] > 0
    assert tuned == contents(tmp_path / "plain")


def test_excluded_tensors_stay(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    run(tiny_llama, tmp_path / "out", text, format="nvfp4", exclude=["*norm.weight", "*embed*"])
    original, found = stored(tiny_llama), stored(tmp_path / "out")
    kept = [name for name in original if name in found]
    assert len(kept) == 6
    assert all(torch.equal(found[name], original[name]) for name in kept)


class Stop(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize(("after", "again"), [(3, None), (0, 0.1)])
def test_an_interrupted_tuning_leaves_the_untuned_pieces(
    tiny_llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, again: float | None
) -> None:
    revise, revised = CheckpointWriter.revise, []

    def stopping(self: CheckpointWriter, name: str, parts: dict) -> None:
        if len(revised) == after:
            raise Stop
        revised.append(name)
        revise(self, name, parts)

    def failing(self: CheckpointWriter, name: str, parts: dict, note: str = "") -> None:
        raise AssertionError(f"{name} is made again")

    with monkeypatch.context() as patched:
        patched.setattr(CheckpointWriter, "revise", stopping)
        with pytest.raises(Stop):
            run(tiny_llama, tmp_path / "out", text, bits=4.0)
    assert not (tmp_path / "out").exists()
    with monkeypatch.context() as patched:
        patched.setattr(CheckpointWriter, "write", failing)
        result = run(tiny_llama, tmp_path / "out", text, again, bits=4.0)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    if again is None:
        run(tiny_llama, tmp_path / "plain", text, None, bits=4.0)
        assert contents(tmp_path / "out") == contents(tmp_path / "plain")
    else:
        assert result.tuning is not None
        assert result.tuning.after < result.tuning.before


def test_a_run_killed_while_cleaning_up_knows_whether_it_was_tuned(
    tiny_llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(self: CheckpointWriter, config: Any, sidecars: Any, files: Any) -> None:
        self._assemble(config, sidecars, files)
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(CheckpointWriter, "finish", dying)
        with pytest.raises(Stop):
            run(tiny_llama, tmp_path / "out", text, bits=4.0)
    made = contents(tmp_path / "out")
    with pytest.raises(OutputError, match="with tuning"):
        run(tiny_llama, tmp_path / "out", text, None, bits=4.0)
    assert contents(tmp_path / "out") == made


@pytest.mark.parametrize("minutes", [0.0, -1.0, math.nan, math.inf])
def test_no_time_is_refused(tiny_llama: Path, text: Path, tmp_path: Path, minutes: float) -> None:
    with pytest.raises(BudgetError, match="minutes"):
        run(tiny_llama, tmp_path / "out", text, minutes, bits=4.0)


def test_what_predicts_no_tokens_is_refused_before_anything_is_done(text: Path, tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32)
    ViTModel(config).save_pretrained(tmp_path / "vit")
    with pytest.raises(ModelError):
        run(tmp_path / "vit", tmp_path / "out", text, format="int@4 b16")
    make("llama", tmp_path, FORMATS[0])
    with pytest.raises(ModelError, match="no tokenizer"):
        run(tmp_path / "dense", tmp_path / "out", text, format="int@4 b16")
    assert not list(tmp_path.glob("*out*"))


def test_a_text_of_one_sequence_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("A sheet of paper folded once is a folio. " * 6)
    with pytest.raises(ModelError, match="needs two"):
        run(tiny_llama, tmp_path / "out", tmp_path / "text", bits=4.0)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_student_is_the_compressed_model_of_any_architecture_and_can_learn(name: str, tmp_path: Path) -> None:
    auto_class, dense, packed = make(name, tmp_path, FORMATS[1])
    made = open_stored(packed)

    def read(tensor: str) -> Any:
        found = made.quantized(tensor)
        return made.checkpoint.read(tensor) if found is None else found

    student = Student(open_checkpoint(dense), read, (), "cpu")
    if hasattr(student.model, "set_experts_implementation"):
        # Torch's grouped product refuses experts of odd sides.
        student.model.set_experts_implementation("eager")
    twin = auto_class.from_pretrained(dense, experts_implementation="eager")
    row = torch.randint(0, VOCABULARY, (9,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = logits(twin, row)
        torch.testing.assert_close(logits(student.model, row), expected, atol=1e-5, rtol=1e-4)
        with student.as_stored() as model:
            torch.testing.assert_close(logits(model, row), expected, atol=1e-5, rtol=1e-4)
    assert {weight.name for weight in student.weights} <= set(made.names)
    assert any(len(weight.shape) == 2 for weight in student.weights)
    divergence(expected.roll(1, 0), logits(student.model, row)).backward()
    gradients = [parameter.grad for weight in student.weights for parameter in weight.parameters()]
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)
    assert sum(gradient is not None and bool(gradient.any()) for gradient in gradients) > 0.6 * len(gradients)


def test_the_divergence_that_is_descended_is_the_one_that_is_reported(generator: torch.Generator) -> None:
    expected, found = (3 * torch.randn(5, 40, generator=generator) for _ in range(2))
    reported = compare(expected, found, torch.arange(4)).forward.mean()
    assert float(divergence(expected, found)) == pytest.approx(float(reported), rel=1e-5)
    assert float(divergence(expected, expected)) == pytest.approx(0, abs=1e-6)
