"""Transformed checkpoints: the same model in other coordinates, written like any checkpoint and compressed like one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from octavo.base.errors import CheckpointError, ModelError, OctavoError, OutputError
from octavo.base.progress import SILENT
from octavo.checkpoints import CheckpointWriter, open_checkpoint
from octavo.compress import Plan, compress, transformed, transforming
from octavo.compress.kept_maps import maps_path
from octavo.compress.selection import select
from octavo.compress.sensitivity import calibrate
from octavo.compress.transforming import Transform, transform_checkpoint
from octavo.models import load_language_model
from octavo.transforms.learning import Learning

TOKENS = torch.arange(3 * 20).view(3, 20)
FEW = {"sequences": 2, "length": 24}


def logits(folder: Path) -> torch.Tensor:
    model, _ = load_language_model(folder)
    with torch.no_grad():
        return model(TOKENS).logits


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("block", [None, 16])
@pytest.mark.parametrize("online", [True, False])
def test_a_hadamard_transform_changes_no_prediction(
    block: int | None, online: bool, tiny_llama: Path, tmp_path: Path
) -> None:
    out = tmp_path / "smooth"
    report = transform_checkpoint(tiny_llama, out, Transform(block=block, online=online, **FEW))
    assert report.out == out
    assert 0 <= report.drift < 1e-8
    assert report.condition == pytest.approx(1, abs=1e-6)
    expected = logits(tiny_llama)
    assert (logits(out) - expected).abs().max() < 1e-4 * expected.abs().max()
    assert not config(out)["tie_word_embeddings"]
    assert ("quantization_config" in config(out)) == online
    assert (out / "tokenizer.json").exists()
    weights = load_file(out / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert (weights["model.norm.weight"] == 1).all()


def test_activations_are_rounded_and_the_drift_is_of_the_unrounded(tiny_llama: Path, tmp_path: Path) -> None:
    report = transform_checkpoint(tiny_llama, tmp_path / "smooth", Transform(activations="mxfp4", **FEW))
    assert report.drift < 1e-8
    expected = logits(tiny_llama)
    assert (logits(tmp_path / "smooth") - expected).abs().max() > 0.01 * expected.abs().max()
    assert config(tmp_path / "smooth")["quantization_config"]["activations"]["format"] == "mxfp4"


def test_none_only_rounds_activations(tiny_llama: Path, tmp_path: Path) -> None:
    report = transform_checkpoint(tiny_llama, tmp_path / "same", Transform("none", activations="mxfp8-e4m3"))
    original, copied = (load_file(f / "model.safetensors") for f in (tiny_llama, tmp_path / "same"))
    assert report.drift == 0
    assert original.keys() == copied.keys()
    assert all(torch.equal(original[name], copied[name]) for name in original)
    plain = transform_checkpoint(tiny_llama, tmp_path / "plain", Transform("none"))
    assert "quantization_config" not in config(plain.out)


@pytest.mark.parametrize("kind", ["rotation", "latmix"])
@pytest.mark.parametrize("family", ["lu", "qr"])
def test_learned_maps_help_and_their_drift_is_told(kind: str, family: str, tiny_llama: Path, tmp_path: Path) -> None:
    learning = Learning(steps=60, rate=2e-2, turn_rate=2e-2)
    asked = Transform(kind, family, activations="mxfp4", learning=learning, sequences=4, length=48)
    report = transform_checkpoint(tiny_llama, tmp_path / "smooth", asked)
    assert len(report.losses) == 60
    assert sum(report.losses[-8:]) < sum(report.losses[:8])
    if kind == "rotation":
        assert report.drift < 1e-8
        assert report.condition == pytest.approx(1, abs=1e-4)
    else:
        assert report.drift > 1e-5
        assert 1.01 < report.condition < 10
        biases = {name for name in load_file(tmp_path / "smooth" / "model.safetensors") if name.endswith("bias")}
        assert len(biases) == 8
        assert config(tmp_path / "smooth")["attention_bias"]


def test_the_same_seed_makes_the_same_bytes(tiny_llama: Path, tmp_path: Path) -> None:
    asked = Transform("latmix", activations="mxfp4", learning=Learning(steps=2), **FEW)
    for name in ("one", "two"):
        transform_checkpoint(tiny_llama, tmp_path / name, asked)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_an_interrupted_run_goes_on(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Transform("latmix", activations="mxfp4", learning=Learning(steps=2), **FEW)
    transform_checkpoint(tiny_llama, tmp_path / "whole", asked)
    write, written = CheckpointWriter.write, []

    def interrupted(self: CheckpointWriter, name: str, parts: Any) -> None:
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(name)
        write(self, name, parts)

    monkeypatch.setattr(CheckpointWriter, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        transform_checkpoint(tiny_llama, tmp_path / "cut", asked)
    monkeypatch.setattr(CheckpointWriter, "write", write)
    assert maps_path(tmp_path / "cut").exists()
    assert not (tmp_path / "cut").exists()

    def no_learning(*_: Any, **__: Any) -> None:
        raise AssertionError("the maps were learned already")

    monkeypatch.setattr(transforming, "learn", no_learning)
    report = transform_checkpoint(tiny_llama, tmp_path / "cut", asked)
    assert report.losses == ()
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert one == two
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "whole"]


def test_compression_takes_a_transformed_model_for_a_dense_one(tiny_llama: Path, tmp_path: Path) -> None:
    transform_checkpoint(tiny_llama, tmp_path / "smooth", Transform(activations="mxfp4", **FEW))
    assert select(open_checkpoint(tmp_path / "smooth")).quantized
    text = tmp_path / "text.txt"
    text.write_text("A sheet of paper folded once is a folio. " * 400)
    found = calibrate(tmp_path / "smooth", text, 0, "cpu", SILENT)
    assert all(value.row.isfinite().all() and value.row.sum() > 0 for value in found.importance.values())


def test_a_transformed_model_is_streamed_like_any_other(tiny_llama: Path, tmp_path: Path) -> None:
    from octavo.models.streaming import load_streamed_model

    transform_checkpoint(tiny_llama, tmp_path / "smooth", Transform(activations="mxfp4", **FEW))
    streamed, _ = load_streamed_model(tmp_path / "smooth")
    with torch.no_grad():
        assert torch.allclose(streamed(TOKENS).logits, logits(tmp_path / "smooth"), atol=1e-5)


def test_what_makes_no_sense_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"kind": "wavelet"}, "wavelet"),
        ({"activations": "int@4"}, "int@4"),
        ({"block": 0}, "blocks of 0"),
        ({"kind": "latmix", "sequences": 0}, "needs sequences"),
        ({"kind": "rotation", "learning": Learning(steps=0)}, "needs sequences"),
    ):
        with pytest.raises(OctavoError, match=message):
            Transform(**options)
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="exists"):
        transform_checkpoint(tiny_llama, tmp_path / "there", Transform("latmix", learning=Learning(steps=10**9)))
    out = transform_checkpoint(tiny_llama, tmp_path / "once", Transform(sequences=0))
    assert math.isnan(out.drift)
    with pytest.raises(CheckpointError, match="transformed already"):
        transform_checkpoint(out.out, tmp_path / "twice")


def test_other_architectures_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = tmp_path / "gpt2"
    source.mkdir()
    save_file({"wte.weight": torch.ones(4, 4)}, source / "model.safetensors")
    (source / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ModelError, match="gpt2"):
        transform_checkpoint(source, tmp_path / "out", Transform(sequences=0))
    assert not (tmp_path / "out").exists()


def test_learning_that_diverges_says_so(tiny_llama: Path, tmp_path: Path) -> None:
    wild = Transform("latmix", activations="mxfp4", learning=Learning(steps=40, rate=30.0), **FEW)
    with pytest.raises(OctavoError, match=r"diverged|condition number"):
        transform_checkpoint(tiny_llama, tmp_path / "out", wild)
    assert not (tmp_path / "out").exists()


def test_compress_transforms_first_and_says_so_in_the_plan(tiny_llama: Path, tmp_path: Path) -> None:
    transform = Transform("hadamard", activations="mxfp4", **FEW)
    result = compress(tiny_llama, tmp_path / "out", format="mxfp4", sensitivity="uniform", transform=transform)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    smooth = transform_checkpoint(tiny_llama, tmp_path / "smooth", transform).out
    stepwise = compress(smooth, tmp_path / "stepwise", format="mxfp4", sensitivity="uniform")
    assert torch.equal(logits(result.out), logits(stepwise.out))
    assert config(result.out) == config(stepwise.out)
    kept = Plan.from_json((result.out / "plan.json").read_text())
    again = compress(tiny_llama, tmp_path / "again", plan=kept, sensitivity="uniform")
    assert torch.equal(logits(again.out), logits(result.out))


def test_a_transformed_model_outlives_an_interrupted_compression(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, transform = tmp_path / "out", Transform("hadamard", **FEW)
    options = {"format": "int@4 b16 absmax:bf16", "sensitivity": "uniform", "transform": transform}
    with monkeypatch.context() as broken:
        broken.setattr(CheckpointWriter, "finish", _interrupted_when(out))
        with pytest.raises(KeyboardInterrupt):
            compress(tiny_llama, out, **options)
    assert not out.exists()
    monkeypatch.setattr(transformed, "transform_checkpoint", None)  # must not be needed again
    compress(tiny_llama, out, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _interrupted_when(out: Path) -> Any:
    finish = CheckpointWriter.finish

    def interrupted(self: CheckpointWriter, *arguments: Any, **options: Any) -> None:
        if self.out == out:
            raise KeyboardInterrupt
        finish(self, *arguments, **options)

    return interrupted


@pytest.mark.parametrize("fields", [{"kind": "fold"}, {"blok": 3}, {"learning": {"step": 3}}])
def test_a_plan_with_another_transform_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(OctavoError):
        Transform.from_json(fields)
