"""`octavo compress` on a tiny model, and everything that may be wrong with its command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from octavo.cli import app

WEIGHT = "model.layers.1.mlp.up_proj.weight"


def run(*arguments: object) -> tuple[int, str, str]:
    shown = CliRunner().invoke(app, ["compress", *map(str, arguments)])
    return shown.exit_code, shown.stdout, shown.stderr


def error(stderr: str) -> str:
    last = stderr.splitlines()[-1]
    assert last.startswith("octavo: error: ")
    assert "Traceback" not in stderr
    return last


def test_budget_is_met_and_the_result_is_described(tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    code, shown, _ = run(tiny_llama, out, "--bits", 5, "--sensitivity", "uniform")
    assert code == 0
    assert f"{out}: " in shown
    assert "bits/weight stored" in shown
    assert json.loads((out / "config.json").read_text())["quantization_config"]["quant_method"] == "octavo"


def test_fixed_format(tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    assert run(tiny_llama, out, "--format", "int@4 b16 absmax:bf16", "--sensitivity", "uniform")[0] == 0
    tensors = json.loads((out / "config.json").read_text())["quantization_config"]["tensors"]
    assert {entry["format"] for entry in tensors.values()} == {"int@4 b16 absmax:bf16"}


def test_tuning_says_what_it_gained(tiny_llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("Folded once it is a folio, folded twice a quarto, folded three times an octavo. " * 400)
    options = ("--format", "int@4 b16", "--effort", "fast", "--calibration", text)
    code, shown, told = run(tiny_llama, tmp_path / "small", *options, "--tune", 0.02)
    assert code == 0
    assert "on held-out calibration text" in shown
    assert "tuning (seconds): " in told
    code, _, told = run(tiny_llama, tmp_path / "other", *options, "--tune", 0)
    assert code == 2
    assert "give a time above 0" in error(told)


def test_dry_run_prints_the_plan_and_writes_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    code, shown, _ = run(tiny_llama, out, "--bits", 5, "--sensitivity", "uniform", "--dry-run")
    assert code == 0
    for words in (WEIGHT, "80×48", "bits stored", "predicted loss"):
        assert words in shown
    assert list(tmp_path.iterdir()) == []


def test_saved_plan_is_followed(tiny_llama: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    options = (tiny_llama, "--bits", 5, "--sensitivity", "uniform", "--budget-of", "memory")
    code, first, _ = run(*options, "--dry-run", "--save-plan", plan)
    assert code == 0
    assert WEIGHT in plan.read_text()
    out = tmp_path / "small"
    assert run(tiny_llama, out, "--plan", plan, "--sensitivity", "uniform")[0] == 0
    for name, entry in json.loads((out / "config.json").read_text())["quantization_config"]["tensors"].items():
        row = next(line for line in first.splitlines() if line.strip().startswith(name))
        assert entry["format"] in row


def test_include_and_exclude(tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    options = ("--include", "*.mlp.*", "--exclude", "*down_proj*", "--sensitivity", "uniform")
    assert run(tiny_llama, out, "--format", "int@4 b16", *options)[0] == 0
    names = json.loads((out / "config.json").read_text())["quantization_config"]["tensors"]
    assert set(names) == {f"model.layers.{i}.mlp.{kind}_proj.weight" for i in (0, 1) for kind in ("gate", "up")}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no budget is given; give one of --bits"),
        (["--bits", "3", "--bytes", "1MB"], "--bits and --bytes exclude each other"),
        (["--bits", "3", "--plan", "p.json"], "--bits and --plan exclude each other"),
        (["--bytes", "many"], "'many' is not a size"),
        (["--format", "nf5"], "unknown element 'nf5'; did you mean nf4"),
        (["--bits", "0.0001"], ""),
        (["--bits", "-1"], ""),
        (["--bits", "3", "--calibration", "none.txt"], "none.txt"),
        (["--bits", "3", "--include", "nothing*"], ""),
        (["--plan", "none.json"], "none.json; check the path"),
    ],
)
def test_what_is_wrong_is_one_line_code_2_and_no_output(
    tiny_llama: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    code, shown, err = run(tiny_llama, tmp_path / "small", *arguments)
    assert code == 2
    assert words in error(err)
    assert shown == ""
    assert not (tmp_path / "small").exists()


def test_out_is_needed_without_dry_run(tiny_llama: Path) -> None:
    code, _, err = run(tiny_llama, "--bits", 3)
    assert code == 2
    assert "OUT is missing" in error(err)


def test_existing_out_is_left_alone(tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    out.mkdir()
    (out / "precious").write_text("x")
    code, _, err = run(tiny_llama, out, "--bits", 5, "--sensitivity", "uniform")
    assert code == 2
    assert str(out) in error(err)
    assert [path.name for path in out.iterdir()] == ["precious"]


def test_missing_model(tmp_path: Path) -> None:
    code, _, err = run(tmp_path / "none", tmp_path / "small", "--bits", 3)
    assert code == 2
    assert "none" in error(err)


def test_edited_plan_that_makes_no_sense(tiny_llama: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text('{"entries": "all"}')
    code, _, err = run(tiny_llama, tmp_path / "small", "--plan", plan)
    assert code == 2
    error(err)
    assert not (tmp_path / "small").exists()


def test_a_plan_of_widths_says_how_far_it_may_lie_from_the_best(tiny_llama: Path) -> None:
    options = ["--bits", 5, "--budget-of", "memory", "--sensitivity", "uniform", "--dry-run"]
    code, out, _ = run(tiny_llama, *options)
    assert code == 0
    assert re.search(r"at most [\d.e-]+ % above the best choice of formats", out)


def test_a_transform_comes_first(tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    options = ("--format", "mxfp4", "--sensitivity", "uniform", "--transform", "hadamard", "--activations", "mxfp4")
    assert run(tiny_llama, out, *options)[0] == 0
    quantization = json.loads((out / "config.json").read_text())["quantization_config"]
    assert quantization["activations"]["format"] == "mxfp4"
    assert quantization["tensors"]
    code, _, stderr = run(tiny_llama, *options, "--dry-run")
    assert code == 2
    assert "octavo transform" in error(stderr)
