"""`octavo inspect`: a dense directory, and what cannot be read."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from octavo.cli import app
from octavo.hub.inspection import inspect


def test_every_tensor_is_described(tiny_llama: Path) -> None:
    found = {tensor.name: tensor for tensor in inspect(tiny_llama)}
    weight = found["model.layers.1.mlp.up_proj.weight"]
    assert weight.shape == (80, 48)
    assert weight.format == "float32"
    assert weight.bits == 32
    assert abs(weight.rms - 0.3) < 0.03
    assert weight.kurtosis is not None
    assert 2.5 < weight.kurtosis < 3.5
    assert weight.df is not None
    assert weight.df > 10
    gain = found["model.norm.weight"]
    assert gain.rms == 1
    assert gain.df is None


def test_table_has_a_line_a_tensor(tiny_llama: Path) -> None:
    shown = CliRunner().invoke(app, ["inspect", str(tiny_llama)])
    assert shown.exit_code == 0
    for words in ("model.layers.1.mlp.up_proj.weight", "80×48", "float32", "32.000", "t df"):
        assert words in shown.stdout
    # Not a terminal: no escape codes, and progress stays out of the result.
    assert "\x1b" not in shown.output
    assert "inspecting" not in shown.stdout
    assert "inspecting" in shown.stderr


def test_missing_model_is_one_line_and_code_2(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "none")])
    assert shown.exit_code == 2
    assert shown.stderr.count("\n") == 1
    assert shown.stderr.startswith("octavo: error: ")
    assert "none" in shown.stderr


def test_directory_that_is_no_model_is_one_line_and_code_2(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path)])
    assert shown.exit_code == 2
    assert "config.json" in shown.stderr.splitlines()[-1]
