"""`octavo transform` on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from octavo.cli import app


def run(*arguments: object) -> tuple[int, str, str]:
    shown = CliRunner().invoke(app, ["transform", *map(str, arguments)])
    return shown.exit_code, shown.stdout, shown.stderr


def test_a_fixed_transform(tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "smooth"
    code, shown, _ = run(tiny_llama, out, "--activations", "mxfp4", "--sequences", 1)
    assert code == 0
    assert shown.startswith(f"{out} written in ")
    assert "condition number 1\n" in shown
    assert "drift before any rounding" in shown
    assert "steps" not in shown


@pytest.mark.parametrize("family", ["lu", "qr"])
def test_learned_maps(family: str, tiny_llama: Path, tmp_path: Path) -> None:
    options = ("--kind", "latmix", "--family", family, "--learn-steps", 2, "--sequences", 1, "--activations", "mxfp4")
    code, shown, _ = run(tiny_llama, tmp_path / "smooth", *options)
    assert code == 0
    assert "2 steps: divergence of the rounded model " in shown


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--activations", "int@4"), "int@4"),
        (("--kind", "latmix", "--sequences", "0"), "needs sequences"),
        (("--kind", "latmix", "--weights", "mxfp5"), "mxfp5"),
    ],
)
def test_mistakes_are_one_line(options: tuple[str, ...], named: str, tiny_llama: Path, tmp_path: Path) -> None:
    code, _, stderr = run(tiny_llama, tmp_path / "out", *options)
    assert code == 2
    assert stderr.splitlines()[-1].startswith("octavo: error: ")
    assert named in stderr
    assert not (tmp_path / "out").exists()
