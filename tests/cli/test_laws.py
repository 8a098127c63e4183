"""`octavo laws plan` and `octavo laws fit`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from octavo.cli import app
from octavo.laws.precision import PrecisionLaw

TRUE = PrecisionLaw(alpha=0.63, beta=0.40, gamma=3.32, a=800.0, b=2000.0, e=1.7)


def run(*arguments: str) -> tuple[int, str, str]:
    shown = CliRunner().invoke(app, ["laws", *arguments])
    return shown.exit_code, shown.stdout, shown.stderr


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    path = tmp_path / "runs.jsonl"
    with path.open("w") as file:
        for n in (3e6, 1e7, 3e7):
            for d in (1e9, 8e9, 64e9):
                for p in (1, 4, 16):
                    line = {"parameters": n, "tokens": d, "bits": p, "loss": TRUE.loss(n, d, p)}
                    file.write(json.dumps(line) + "\n")
    return path


def test_plan_answers_with_the_published_constants(tmp_path: Path) -> None:
    plot = tmp_path / "plan.png"
    code, out, _ = run("plan", "--memory", "8GB", "--tokens", "1T", "--plot", str(plot))
    assert code == 0
    assert "8.0 GB: 35 B parameters at 1 bits each" in out
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "at 2 bits each" in run("plan", "--memory", "8GB", "--tokens", "1T", "--constants", "uniform")[1]
    assert "at 4 bits each" in run("plan", "--memory", "2GB", "--tokens", "1T")[1]


def test_fit_saves_constants_that_plan_reads(tmp_path: Path, runs: Path) -> None:
    law = tmp_path / "law.json"
    code, out, _ = run("fit", str(runs), "--resamples", "3", "--hold", "e=1.7", "--save", str(law))
    assert code == 0
    assert "3.32" in out
    assert "27 runs" in out
    assert "held" in out
    assert json.loads(law.read_text())["gamma"] == pytest.approx(3.32, rel=1e-3)
    code, planned, _ = run("plan", "--memory", "8GB", "--tokens", "1T", "--constants", str(law))
    assert code == 0
    assert run("plan", "--memory", "8GB", "--tokens", "1T", "--runs", str(runs))[1] == planned
    loss = TRUE.loss(35e9, 1e12, 1)
    assert f"{loss:.3f}" in planned


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "--memory", "8XB", "--tokens", "1T"], "'8XB' is not a size"),
        (["plan", "--memory", "8GB", "--tokens", "one"], "'one' is not a count"),
        (["plan", "--memory", "8GB", "--tokens", "0"], "0 tokens train no model"),
        (["plan", "--memory", "50MB", "--tokens", "1T"], "hold no model"),
        (["plan", "--memory", "8GB", "--tokens", "1T", "--bits", "1;2"], "no list of bits"),
        (["plan", "--memory", "8GB", "--tokens", "1T", "--constants", "kmean"], "kmeans or uniform"),
        (["plan", "--memory", "8GB", "--tokens", "1T", "--constants", "a", "--runs", "b"], "exclude each other"),
        (["plan", "--memory", "8GB", "--tokens", "1T", "--runs", "missing.jsonl"], "missing.jsonl; check the path"),
        (["plan", "--memory", "8GB", "--tokens", "1T", "--plot", "."], "exists"),
        (["fit", "missing.jsonl"], "missing.jsonl; check the path"),
        (["fit", "missing.jsonl", "--hold", "gamma"], "holds no constant"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("octavo: error: ")
    assert err.count("\n") == 1
    assert words in err
