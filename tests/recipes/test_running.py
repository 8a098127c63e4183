"""What every recipe relies on: its directory, its table, and what becomes of failures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_recipe
from typer.testing import CliRunner

from octavo.base.errors import LawError, OutputError
from octavo.cli import app
from octavo.laws.journal import NAME
from octavo.recipes import registry
from octavo.recipes.recipe import Kitchen, Line, Scale, Verdict
from octavo.recipes.registry import Entry
from octavo.recipes.running import markdown_table, run_recipe


@pytest.fixture(autouse=True)
def squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.RECIPES, "squares", Entry("tiny_recipe", "squares add up", "0000.00000"))


def test_table_figures_and_plot_are_kept_and_failures_told(tmp_path: Path) -> None:
    out = tmp_path / "a" / "squares"
    report = run_recipe("squares", out, Scale.tiny, seed=7, workers=1)
    assert report.notes[0] == "seed 7"
    assert report.notes[1].endswith("seconds of CPU time, all jobs together")
    assert report.notes[2].startswith("1 runs failed, the first with: ValueError: 4 is not welcome")
    kept = json.loads((out / "figures.json").read_text())
    jobs = [json.loads(line) for line in (out / NAME).read_text().splitlines()]
    assert kept["cpu_seconds"] >= sum(job.get("cpu_seconds", 0) for job in jobs) - 0.1
    assert kept["figures"] == {"squares": [4, 9]}
    assert (kept["seed"], kept["scale"], kept["device"]) == (7, "tiny", "cpu")
    assert kept["lines"][0]["verdict"] == "holds"
    assert kept["failures"][0]["job"]["x"] == 4
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "| sum of squares | 13 | 13 | 13 … 13 | holds |" in (out / "table.md").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["figures.json", NAME, "plot.png", "table.md"]


def test_a_finished_directory_is_left_alone_and_an_unfinished_one_goes_on(tmp_path: Path) -> None:
    Kitchen(Scale.tiny, tmp_path, workers=1).sweep(tiny_recipe.JOBS[:2], tiny_recipe.sweep_jobs.square)
    before = (tmp_path / NAME).read_text()
    run_recipe("squares", tmp_path, workers=1)
    assert (tmp_path / NAME).read_text().startswith(before)
    assert (tmp_path / NAME).read_text().count('"result"') == 2
    with pytest.raises(OutputError, match="finished recipe"):
        run_recipe("squares", tmp_path)


def test_a_sweep_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LawError, match="all 1 runs failed, the first with: ValueError: 4"):
        tiny_recipe.hopeless(Kitchen(Scale.tiny, tmp_path, workers=1))


def test_verdicts_follow_the_interval() -> None:
    assert Verdict.of(0.1, 0.2) == "holds"
    assert Verdict.of(-0.2, -0.1) == "does not hold at this scale"
    assert Verdict.of(-0.1, 0.1) == "undecided at this scale"
    assert Verdict.of(0.1, 0.3, above=0.2) == "undecided at this scale"


def test_bars_do_not_break_the_table() -> None:
    assert markdown_table((Line("|r|", "1", "2"),)).splitlines()[2].count("|") == 6


def test_program_lists_and_runs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    shown = CliRunner().invoke(app, ["recipes", "list"])
    assert "squares add up" in shown.stdout
    shown = CliRunner().invoke(app, ["recipes", "run", "squares", "--tiny", "--out", str(out), "--workers", "1"])
    assert shown.exit_code == 0, shown.stderr
    assert "sum of squares" in shown.stdout
    assert "holds" in shown.stdout
    assert "4 is not welcome" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["rounds"], "there are "), (["squares", "--tiny", "--gpu"], "exclude each other")],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    shown = CliRunner().invoke(app, ["recipes", "run", *arguments, "--out", str(tmp_path / "out")])
    assert shown.exit_code == 2
    assert words in shown.stderr
    assert shown.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", registry.RECIPES)
def test_every_recipe_is_there(name: str) -> None:
    assert callable(registry.find(name).load())
