"""`octavo evaluate` on a tiny model and a noisy copy of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from octavo.cli import app

TEXT = "The binder folded, gathered and sewed; the sheet became a book. " * 40
SIZE = ("--length", "24", "--count", "3")


@pytest.fixture(scope="module")
def noisy(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a little noise on its weights."""
    directory = tmp_path_factory.mktemp("noisy") / "model"
    shutil.copytree(tiny_llama, directory)
    generator = torch.Generator().manual_seed(0)
    weights = load_file(directory / "model.safetensors")
    noised = {name: w + 0.01 * torch.randn(w.shape, generator=generator) for name, w in weights.items()}
    save_file(noised, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def run(*arguments: object) -> tuple[int, str, str]:
    shown = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    return shown.exit_code, shown.stdout, shown.stderr


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_table_has_every_figure_with_its_error(tiny_llama: Path, noisy: Path, text: Path) -> None:
    code, out, _ = run(noisy, "--reference", tiny_llama, "--text", text, *SIZE)
    assert code == 0
    assert "3 sequences of 24 tokens" in out
    figures = {line.split("  ")[0].strip(): line.split()[-2:] for line in out.splitlines() if "." in line}
    assert len(figures) == 6
    assert 0 < float(figures["KL(reference ‖ model), nats/token"][0]) < 1
    assert 50 < float(figures["same top token, %"][0]) <= 100


def test_a_model_is_its_own_equal(tiny_llama: Path, text: Path) -> None:
    code, out, _ = run(tiny_llama, "--reference", tiny_llama, "--text", text, *SIZE)
    assert code == 0
    assert out.count("0.0000") >= 4
    assert "100.0000" in out


@pytest.mark.parametrize(("by", "words"), [("layer", "SQNR dB"), ("position", "0-")])
def test_split(tiny_llama: Path, noisy: Path, text: Path, by: str, words: str) -> None:
    code, out, _ = run(noisy, "--reference", tiny_llama, "--text", text, "--by", by, *SIZE)
    assert code == 0
    assert words in out


def test_a_quantized_cache_costs_something(tiny_llama: Path, text: Path) -> None:
    code, out, _ = run(tiny_llama, "--reference", tiny_llama, "--text", text, "--length", 200, "--cache", "int@2 b32")
    assert code == 0
    figures = {line.split("  ")[0].strip(): line.split()[-2:] for line in out.splitlines() if "." in line}
    assert float(figures["KL(reference ‖ model), nats/token"][0]) > 0


def test_missing_text_is_one_line_and_code_2(tiny_llama: Path, tmp_path: Path) -> None:
    code, _, err = run(tiny_llama, "--reference", tiny_llama, "--text", tmp_path / "none.txt", *SIZE)
    assert code == 2
    assert "none.txt" in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("octavo: error: ")


def test_short_text_is_one_line_and_code_2(tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("Too short.")
    code, _, err = run(tiny_llama, "--reference", tiny_llama, "--text", path)
    assert code == 2
    assert err.splitlines()[-1].startswith("octavo: error: the text has ")
