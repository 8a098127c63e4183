"""`octavo formats` and the description behind it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from octavo.cli import app
from octavo.cli.formats import FAMILIES
from octavo.compress.description import describe
from octavo.formats.elements import ELEMENTS
from octavo.formats.format import Format
from octavo.formats.microscaling import MICROSCALING

SMALL = 2**15


def run(*arguments: str) -> tuple[int, str, str]:
    shown = CliRunner().invoke(app, ["formats", *arguments])
    return shown.exit_code, shown.stdout, shown.stderr


def test_list_names_every_family_with_its_bits() -> None:
    code, out, _ = run()
    assert code == 0
    for spec, _ in FAMILIES:
        assert str(Format.parse(spec)) in out
    assert "4.250" in out


def test_no_registered_element_is_missing_from_the_list() -> None:
    words = " ".join(f"{spec} {what}" for spec, what in FAMILIES)
    for name in (*ELEMENTS, *MICROSCALING, "grid"):
        assert re.fullmatch(r"e\dm\d", name) or name in words


def test_show_prints_figures_and_saves_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    code, out, _ = run("show", "int@3 b32", "--plot", str(picture))
    assert code == 0
    assert out.startswith("int@3 b32 absmax:bf16\n8 centroids: -1 -0.75 -0.5 -0.25 0 0.25 0.5 0.75\n")
    for words in ("normal", "Laplace", "Student-t, df=5", "Shannon bound", "3.5000"):
        assert words in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_picture_has_the_format_s_name_if_no_other_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("show", "nf4 b64")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["nf4-b64-absmax-bf16.png"]


@pytest.mark.parametrize(
    ("spec", "named"),
    [("nf5", "nf4"), ("int@4 b0", "b0"), ("int@4 b32 absmix", "absmax"), ("", "empty"), ("int@99", "99")],
)
def test_unknown_format_is_one_line_and_code_2(spec: str, named: str) -> None:
    code, out, err = run("show", spec)
    assert code == 2
    assert out == ""
    assert err.startswith("octavo: error: ")
    assert err.count("\n") == 1
    assert named in err


def test_picture_that_cannot_be_written_is_one_line_and_code_2(tmp_path: Path) -> None:
    code, _, err = run("show", "nf4", "--plot", str(tmp_path / "none" / "p.png"))
    assert code == 2
    assert err.splitlines()[-1].startswith("octavo: error: no such file or directory: ")


@pytest.mark.parametrize(
    "spec",
    [
        "cbrt-t(df=5)@3 b64 absmax:bf16",
        "nf4 b64 signmax:bf16",
        "int@4 tensor rms:fp32",
        "cbrt-laplace@2 tensor absmean:fp32",
    ],
)
def test_theory_and_measurement_agree(spec: str, generator: torch.Generator) -> None:
    found = describe(Format.parse(spec), generator, 2**17)
    assert len(found.measurements) == 3
    for measurement in found.measurements.values():
        assert measurement.expected_sqnr_db is not None
        # The scales' rounding to bf16 is not in the theory, and samples with heavy tails vary.
        assert measurement.sqnr_db == pytest.approx(measurement.expected_sqnr_db, abs=0.15)
        assert measurement.gap_db > 0


@pytest.mark.parametrize(
    "spec", ["mxfp4", "nvfp4", "lloyd@3 channel absmean", "cbrt-t(df=fit)@3 b64 search", "e4m3 b16"]
)
def test_formats_without_a_theory_are_measured(spec: str, generator: torch.Generator) -> None:
    found = describe(Format.parse(spec), generator, SMALL)
    assert all(measurement.sqnr_db > 5 for measurement in found.measurements.values())
    assert list(found.centroids) == sorted(found.centroids)


def test_student_t_follows_the_format_s_df(generator: torch.Generator) -> None:
    found = describe(Format.parse("cbrt-t(df=7)@3"), generator, SMALL)
    assert "Student-t, df=7" in found.measurements


@pytest.mark.parametrize("spec", ["int@3 b32", "int@3 tensor absmean", "int@3 channel rms"])
def test_laws_are_densities_in_the_centroids_units(spec: str, generator: torch.Generator) -> None:
    found = describe(Format.parse(spec), generator, SMALL)
    x = torch.linspace(-40, 40, 80_001, dtype=torch.float64).numpy()
    for law in found.laws.values():
        assert law.pdf(x).sum() * 1e-3 == pytest.approx(1, abs=0.01)
