"""Every recipe at its tiny size: it runs from the command line, judges each claim, and keeps figures that are JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from octavo.cli import app
from octavo.recipes.overtraining import PLANS as OVERTRAINING
from octavo.recipes.recipe import Scale, Verdict
from octavo.recipes.registry import RECIPES
from octavo.recipes.skill_report import HALVES
from octavo.recipes.skill_scaling import PLANS as SKILLS

CLAIMS = {
    "skill-scaling": (
        "r knowledge − r reasoning, 4e+07 FLOPs",
        "above 0 with 95 % at 2 of 2 budgets",
        "mean r knowledge",
        "mean r reasoning",
        "ln p* knowledge, facts 25% → 50%",
        "r of one half of the facts − r of the other",
    ),
    "overtraining": (
        "two linear layers, γ = 0.06: loss after noise",
        "what noise adds, each of γ = 0.5, 2",
        "what relative noise adds, each of 0.1, 0.4",
        "what tuning adds on the text, each rate of 0.001, 0.01",
        "loss after noise γ = 2",
        "tuned at 0.01: loss on the text of pretraining",
        "tuned at the best rate: loss on the task",
    ),
}


def strict(value: str) -> float:
    raise ValueError(f"{value} is not JSON")


@pytest.mark.parametrize("name", CLAIMS)
def test_recipe_runs_tiny(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shown = CliRunner().invoke(app, ["recipes", "run", name, "--tiny", "--out", str(out), "--workers", "1"])
    assert shown.exit_code == 0, shown.stderr
    kept = json.loads((out / "figures.json").read_text(), parse_constant=strict)
    lines = {line["quantity"]: line for line in kept["lines"]}
    for claim in CLAIMS[name]:
        assert lines[claim]["verdict"] in list(Verdict)
        assert lines[claim]["paper"]
        assert claim in shown.stdout
    assert kept["failures"] == []
    assert len(kept["figures"]["runs"]) == {"skill-scaling": 19, "overtraining": 4}[name]
    assert (out / "plot.png").stat().st_size > 10_000
    assert RECIPES[name].source in (out / "table.md").read_text()


def test_skill_runs_cost_what_they_are_said_to(tmp_path: Path) -> None:
    from octavo.recipes.recipe import Kitchen
    from octavo.recipes.skill_scaling import _jobs, train_skills

    plan = SKILLS[Scale.tiny]
    jobs = list(_jobs(plan, Kitchen(Scale.tiny, tmp_path)))
    assert [job["budget"] for job in jobs] == sorted((job["budget"] for job in jobs), reverse=True)
    row = train_skills(jobs[0])
    # Up to a step.
    assert row["operations"] == pytest.approx(jobs[0]["budget"], rel=0.1)
    assert set(row["losses"]) == {"text", "knowledge", "brackets", "sums", *HALVES}
    assert train_skills(jobs[0])["losses"] == row["losses"]


@pytest.mark.parametrize("scale", Scale)
def test_plans_make_sense(scale: Scale) -> None:
    skills = SKILLS[scale]
    assert len(skills.widths) >= 2
    for widths in skills.widths.values():
        assert len(widths) >= 5
    plan = OVERTRAINING[scale]
    assert plan.tokens[0] >= plan.batch * plan.length
    assert plan.hidden % (2 * plan.heads) == 0
    assert plan.tokens[-1] == plan.base * 2**plan.doublings
