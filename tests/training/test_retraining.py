"""`octavo compress --qat`: weights learn in the formats of a plan, sizes stay, and nothing gets worse."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from packed_directory import make
from safetensors.torch import load_file
from typer.testing import CliRunner

import octavo
from octavo.base.errors import BudgetError, FormatError, ModelError
from octavo.calibrate.text import token_sequences
from octavo.checkpoints import CheckpointWriter
from octavo.cli import app
from octavo.compress import CompressionResult, compress
from octavo.compress.menu import plain
from octavo.formats.frozen import freeze_parts
from octavo.models.evaluate import evaluate
from octavo.models.loading import load_language_model, load_tokenizer
from octavo.training.precision import retraining
from octavo.training.precision.retraining import Trainer
from octavo.training.precision.trainee import starting_point

LENGTH = 48


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged on two sequences."""
    monkeypatch.setattr(retraining, "HELD_OUT", 2)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_text(
        "A sheet of paper folded once is a folio, folded twice a quarto, folded three times an octavo. " * 90
    )
    return path


def run(source: Path, out: Path, text: Path, steps: int | None = 6, **options: Any) -> CompressionResult:
    trainer = None if steps is None else Trainer(steps, text, length=LENGTH, learning_rate=5e-3)
    return compress(source, out, **{"effort": "fast", "calibration": text, "retrainer": trainer, **options})


def stored(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


@pytest.mark.parametrize(
    "options",
    [
        {"format": "columns(int@8=16,int@4=20,int@3) b16 absmax:bf16"},
        {"format": "lloyd@2 b16 absmean:bf16", "exclude": ["model.embed_tokens.weight"]},
    ],
    ids=str,
)
def test_codes_learn_and_all_else_stays(tiny_llama: Path, tmp_path: Path, text: Path, options: dict[str, Any]) -> None:
    result = run(tiny_llama, tmp_path / "learned", text, **options)
    others = {name: value for name, value in options.items() if name not in ("bits", "format")}
    plain = run(tiny_llama, tmp_path / "plain", text, None, plan=result.plan, **others)
    assert result.retraining is not None
    assert plain.retraining is None
    assert result.retraining.after < result.retraining.before
    assert result.file_bytes == pytest.approx(plain.file_bytes, abs=8)
    learned, before = stored(tmp_path / "learned"), stored(tmp_path / "plain")
    assert learned.keys() == before.keys()
    moved = [name for name in learned if not torch.equal(learned[name].float(), before[name].float())]
    assert moved
    assert all(re.search(r"\.codes(_\d)?$", name) for name in moved)
    assert not any(name.startswith(tuple(options.get("exclude", "?"))) for name in moved)
    said = json.loads((tmp_path / "learned" / "retraining.json").read_text())
    assert said["steps"] == 6
    assert said["tokens"] == 6 * LENGTH


def test_what_is_reported_is_what_is_stored(tiny_llama: Path, tmp_path: Path, text: Path) -> None:
    result = run(tiny_llama, tmp_path / "out", text, format="int@3 b16 absmax:bf16")
    assert result.retraining is not None
    sequences = token_sequences(
        load_tokenizer(tiny_llama), text, LENGTH, retraining.MOST, torch.Generator().manual_seed(0)
    )
    held_out = sequences[:2]
    found = evaluate(tmp_path / "out", tiny_llama, held_out)
    assert found.kl == pytest.approx(result.retraining.after, rel=1e-3)


def test_without_a_gain_nothing_changes(
    tiny_llama: Path, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(tiny_llama, tmp_path / "plain", text, None, format="int@4 b16 absmax:bf16")
    trainer = Trainer(4, text, length=LENGTH, learning_rate=3.0)
    result = compress(
        tiny_llama, tmp_path / "out", format="int@4 b16 absmax:bf16", effort="fast", retrainer=trainer, calibration=text
    )
    assert result.retraining is not None
    assert result.retraining.after == result.retraining.before
    assert "the untrained weights are kept" in result.retraining.summary
    assert result.file_bytes == plain.file_bytes
    before, after = stored(tmp_path / "plain"), stored(tmp_path / "out")
    assert all(torch.equal(after[name], part) for name, part in before.items())


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    tiny_llama: Path, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tiny_llama, tmp_path / "whole", text, 12, format="int@3 b16 absmax:bf16")
    look = retraining._Best.look
    looks = 0

    def interrupted(best: Any) -> None:
        nonlocal looks
        looks += 1
        if looks == 4:
            raise KeyboardInterrupt
        look(best)

    with monkeypatch.context() as patched:
        patched.setattr(retraining._Best, "look", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tiny_llama, tmp_path / "out", text, 12, format="int@3 b16 absmax:bf16")
    assert list((tmp_path / ".out.partial" / "training-12").glob("step-*.safetensors"))
    again = run(tiny_llama, tmp_path / "out", text, 12, format="int@3 b16 absmax:bf16")
    assert not (tmp_path / ".out.partial").exists()
    assert whole.retraining is not None
    assert again.retraining is not None
    assert again.retraining.after == whole.retraining.after
    for name in ("model.safetensors", "plan.json", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize("name", ["gpt2", "gemma3"])
def test_other_architectures_learn_too(name: str, tmp_path: Path) -> None:
    _, dense, _ = make(name, tmp_path, "int@4 b32 absmax:fp16")
    rows = torch.randint(61, (6, 24), generator=torch.Generator().manual_seed(0))
    checkpoint = octavo.checkpoints.open_checkpoint(dense)
    from octavo.compress.selection import select

    formats = {each: octavo.parse("int@3 b16 absmax:bf16") for each in select(checkpoint).quantized}
    trainer = Trainer(6, length=24, learning_rate=5e-3)
    trainer.__dict__["_texts"] = lambda source: (rows[:2], rows[2:])
    with CheckpointWriter(tmp_path / "out", "key") as writer:
        for each in checkpoint.names:
            tensor = checkpoint.read(each)
            writer.write(each, formats[each].quantize(tensor).parts if each in formats else {"": tensor})
        found = trainer.run(dense, checkpoint, (), writer, formats)
    assert found.after <= found.before < float("inf")


def test_the_start_is_what_was_stored(generator: torch.Generator) -> None:
    weights = torch.randn(32, 100, generator=generator)
    for text in ("lloyd@2 b64 search:s8", "columns(int@8=16,lloyd@3) b16 search:s8", "int@4 b16 absmax:bf16"):
        # As error feedback leaves it: not the nearest values of these weights.
        quantized = octavo.parse(text).quantize(weights + 0.3 * torch.randn(32, 100, generator=generator))
        frozen, values = freeze_parts(quantized), quantized.dequantize()
        start = starting_point(weights, frozen, values)
        assert torch.equal(frozen.values(start), values)
        assert 0.3 < float((start == weights).float().mean()) < 1


def test_what_cannot_learn_is_refused(tiny_llama: Path, tmp_path: Path, text: Path) -> None:
    for bad in ("trellis(states=256)@2 channel rms:u8", "grid@3.0 tensor rms:fp32 ans", "lattice-e8@2"):
        with pytest.raises(FormatError, match="cannot learn"):
            run(tiny_llama, tmp_path / "out", text, format=bad)
    with pytest.raises(BudgetError, match="0 steps"):
        run(tiny_llama, tmp_path / "out", text, 0, format="int@4")
    with pytest.raises(BudgetError, match="exclude each other"):
        run(tiny_llama, tmp_path / "out", text, format="int@4", tune=1.0)
    (tmp_path / "short").write_text("Folded.")
    with pytest.raises(ModelError):
        run(tiny_llama, tmp_path / "out", tmp_path / "short", format="int@4")
    assert not list(tmp_path.glob("*out*"))


def test_command_line(tiny_llama: Path, tmp_path: Path, text: Path) -> None:
    options = ["--format", "int@3 b16", "--effort", "fast", "--calibration", str(text)]
    shown = CliRunner().invoke(app, ["compress", str(tiny_llama), str(tmp_path / "out"), *options, "--qat", "3"])
    assert shown.exit_code == 0
    assert "on held-out calibration text" in shown.stdout
    assert load_language_model(tmp_path / "out")[0] is not None


def test_a_budget_asks_for_formats_that_can_learn() -> None:
    assert any("trellis" in text for text in plain((256, 64)))
    offered = plain((256, 64), trellis=False)
    assert len(offered) == len(plain((256, 64)))
    retraining._check_formats([octavo.parse(text) for text in offered])
