"""`octavo generate` and `octavo export` on a tiny model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from octavo.cli import app
from octavo.cli.console import printable


def run(*arguments: object) -> tuple[int, str, str]:
    shown = CliRunner().invoke(app, list(map(str, arguments)))
    return shown.exit_code, shown.stdout, shown.stderr


def test_generate_prints_the_same_text_each_time(tiny_llama: Path) -> None:
    arguments = ("generate", tiny_llama, "--prompt", "The binder", "--tokens", 8)
    code, out, _ = run(*arguments)
    assert code == 0
    assert out.strip()
    assert run(*arguments)[1] == out


def test_generate_draws_by_its_seed(tiny_llama: Path) -> None:
    texts = [
        run("generate", tiny_llama, "--prompt", "A", "--tokens", 12, "--temperature", 1, "--seed", seed)[1]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_generate_says_what_runs_the_model(tiny_llama: Path) -> None:
    arguments = ("generate", tiny_llama, "--prompt", "A", "--tokens", 4, "--verbose")
    assert run(*arguments)[2] == "runs on octavo's decoder\n"
    assert run(*arguments, "--cache", "int@4 b32")[2].startswith("runs on transformers (the cache is quantized)\n")


def test_weights_kept_as_stored_say_the_same(tiny_llama: Path, tmp_path: Path) -> None:
    assert run("compress", tiny_llama, tmp_path / "small", "--bits", 5, "--effort", "fast")[0] == 0
    arguments = ("generate", tmp_path / "small", "--prompt", "The binder", "--tokens", 8)
    code, out, _ = run(*arguments, "--keep", "stored")
    assert code == 0
    assert out == run(*arguments)[1]
    code, _, err = run(*arguments, "--keep", "stored", "--cache", "int@4 b32")
    assert code == 2
    assert "only octavo's decoder keeps weights stored, and the cache is quantized" in err


def test_generate_stops_and_samples_as_told(tiny_llama: Path) -> None:
    arguments = ("generate", tiny_llama, "--prompt", "The binder", "--tokens", 12)
    out = run(*arguments)[1]
    stop = out[4:6]
    assert run(*arguments, "--stop", "no such text", "--stop", stop)[1] == out[: out.index(stop)] + "\n"
    draw = "--temperature", 1.0, "--top-k", 20, "--top-p", 0.9, "--min-p", 0.01, "--repetition-penalty", 1.2
    assert run(*arguments, *draw)[1] == run(*arguments, *draw)[1] != out
    code, _, err = run(*arguments, "--top-p", 0.0)
    assert (code, err) == (2, "octavo: error: top_p 0.0 makes no sense; use above 0 and at most 1\n")


def test_generate_says_what_a_quantized_cache_took(tiny_llama: Path) -> None:
    arguments = ("generate", tiny_llama, "--prompt", "A sheet of paper", "--tokens", 150)
    code, out, err = run(*arguments, "--cache", "int@4 b32/int@2 channel")
    assert code == 0
    assert out.strip()
    said = re.search(r"cache: (\d+) of (\d+) tokens packed, (\S+) bits a number; .* in bfloat16 \S+ kB", err)
    assert said
    assert int(said[1]) % 64 == 0
    assert int(said[2]) - int(said[1]) < 128
    assert float(said[3]) == pytest.approx((4 + 16 / 32 + 2 + 16 / 12) / 2, abs=0.01)


def test_a_senseless_cache_is_one_line_and_code_2(tiny_llama: Path) -> None:
    code, out, err = run("generate", tiny_llama, "--prompt", "A", "--cache", "int@4 ans")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("octavo: error: a cache cannot be kept in int@4")


def test_what_a_model_says_does_not_steer_the_terminal() -> None:
    assert printable("a\x1b[31mb\x07\tc\nd\u200be é 中") == "a\ufffd[31mb\ufffd\tc\nd\ufffde é 中"


def test_export_to_bf16(tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "plain"
    code, shown, _ = run("export", tiny_llama, out)
    assert code == 0
    assert str(out) in shown
    with safe_open(out / "model.safetensors", "pt") as file:
        assert file.get_slice("model.norm.weight").get_dtype() == "BF16"


def test_export_does_not_overwrite(tiny_llama: Path, tmp_path: Path) -> None:
    code, _, err = run("export", tiny_llama, tmp_path)
    assert code == 2
    assert err.splitlines()[-1].startswith("octavo: error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["generate", "export"])
def test_missing_model_is_one_line_and_code_2(command: str, tmp_path: Path) -> None:
    rest = ("--prompt", "a") if command == "generate" else (tmp_path / "out",)
    code, _, err = run(command, tmp_path / "none", *rest)
    assert code == 2
    assert err.splitlines()[-1].startswith("octavo: error: ")
    assert "none" in err
