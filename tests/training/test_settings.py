"""Settings: every field can be changed from a command line, and a mistake is named with its remedy."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from octavo.base.errors import ConfigurationError
from octavo.training import TrainingConfig
from octavo.training.schedules import learning_rate_share
from octavo.training.settings import assignments

OTHERS = {
    "precision.dtype": "bfloat16",
    "distributed.strategy": "fsdp",
    "schedule.name": "wsd",
    "data.text": "a.txt, b.txt",
}
FIELDS = TrainingConfig().fields()


def another(name: str) -> str:
    """What could be typed to change a field."""
    value = FIELDS[name]
    if name in OTHERS:
        return OTHERS[name]
    if isinstance(value, bool):
        return str(not value).lower()
    if isinstance(value, int | float):
        return str(value + 1) if isinstance(value, int) else str(value / 2 or 0.5)
    return f"{value}2"


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_can_be_assigned(name: str) -> None:
    changed = TrainingConfig().changed(assignments([f"{name}={another(name)}"])).fields()
    assert {field for field in FIELDS if changed[field] != FIELDS[field]} == {name}
    assert type(changed[name]) is type(FIELDS[name])


def test_a_toml_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('steps = 7\n[data]\ntext = ["a.txt"]\n[optimizer]\nlearning_rate = 1\n')
    config = TrainingConfig.from_toml(path)
    assert (config.steps, config.data.text, config.optimizer.learning_rate) == (7, ("a.txt",), 1.0)
    assert type(config.optimizer.learning_rate) is float


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("schedule.warmpu", "3", "did you mean 'schedule.warmup'"),
        ("learning_rate", "3", "did you mean 'optimizer.learning_rate'"),
        ("shedule.warmup", "3", "did you mean 'schedule.warmup'"),
        ("stepz", "3", "did you mean 'steps'"),
        ("model", "3", "there is no setting 'model'"),
        ("steps.more", "3", "there is no setting 'steps.more'"),
        ("steps", "many", "a whole number"),
        ("steps", 2.5, "a whole number"),
        ("steps", True, "a whole number"),
        ("steps", "0", "at least 1"),
        ("data.held_out", "0.9", "from 0 to 0.5"),
        ("optimizer.learning_rate", "nan", "a finite number"),
        ("precision.compile", "maybe", "true or false"),
        ("precision.dtype", "float8", "one of float32, bfloat16"),
        ("data.text", [1], "a list of texts"),
        ("data.tokenizer", 3, "a text"),
    ],
)
def test_mistakes_are_named(name: str, value: object, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        TrainingConfig().changed({name: value})


@pytest.mark.parametrize(
    ("text", "problem"),
    [("steps == 3", "is not TOML"), ("[data]\nlenght = 3", "run.toml: .*did you mean 'data.length'")],
)
def test_mistakes_in_a_file_name_it(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=problem):
        TrainingConfig.from_toml(path)
    with pytest.raises(ConfigurationError, match="cannot read"):
        TrainingConfig.from_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigurationError, match="assigns nothing"):
        assignments(["steps"])


@pytest.mark.parametrize("name", ["cosine", "wsd", "constant"])
def test_schedules_rise_and_fall(name: str) -> None:
    schedule = TrainingConfig().changed({"schedule.name": name, "schedule.warmup": 10, "schedule.floor": 0.1}).schedule
    shares = [learning_rate_share(step, 100, schedule) for step in range(100)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert all(later <= earlier for earlier, later in itertools.pairwise(shares[10:]))
    assert shares[10] == 1.0
    end = {"cosine": 0.1, "wsd": 0.1 + 0.9 / 11, "constant": 1.0}[name]
    assert shares[99] == pytest.approx(end, abs=1e-3)
    if name == "wsd":
        assert shares[89] == 1.0
        assert shares[90] < 1.0


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="choose one of constant, cosine, wsd"):
        learning_rate_share(0, 10, TrainingConfig().changed({"schedule.name": "linear"}).schedule)
