"""Compressing with error feedback: the plan says so, the budget holds, and the steps follow what is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo.base.errors import BudgetError
from octavo.compress import Plan, compress, plan
from octavo.compress.rounding.steering import Steering
from octavo.models import load_language_model


def test_linear_layers_are_rounded_with_feedback_and_the_budget_holds(
    tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    result = compress(tiny_llama, tmp_path / "out", bits=5, calibration=text)
    rounding = {entry.name: entry.rounding for entry in result.plan.entries}
    assert {name for name, kind in rounding.items() if kind == "feedback"} == {n for n in rounding if "_proj" in n}
    assert 4.8 < result.file_bits_per_weight <= 5
    kept = Plan.from_json((tmp_path / "out" / "plan.json").read_text())
    assert kept == result.plan
    assert load_language_model(tmp_path / "out")[0].config.quantization_config is not None


@pytest.mark.parametrize("choice", [{"format": "int@4 b16"}, {"bits": 5.0, "budget_of": "memory"}], ids=str)
def test_fixed_widths_take_feedback_too(tiny_llama: Path, text: Path, tmp_path: Path, choice: dict) -> None:
    result = compress(tiny_llama, tmp_path / "out", calibration=text, **choice)
    assert any(entry.rounding == "feedback" for entry in result.plan.entries)
    if "bits" in choice:
        assert result.resident_bits_per_weight <= 5


def test_rounding_is_edited_by_hand(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    made = plan(tiny_llama, bits=5, calibration=text)
    edited = Plan.from_json(made.to_json().replace('"rounding": "feedback"', '"rounding": "nearest"'))
    result = compress(tiny_llama, tmp_path / "nearest", plan=edited, calibration=text)
    assert {entry.rounding for entry in result.plan.entries} == {"nearest"}
    with pytest.raises(BudgetError, match="rounding"):
        Plan.from_json(made.to_json().replace('"rounding": "feedback"', '"rounding": "upward"'))
    with pytest.raises(BudgetError, match="no text has shown"):
        compress(tiny_llama, tmp_path / "none", plan=made, sensitivity="uniform")


def test_fast_needs_no_text(tiny_llama: Path, tmp_path: Path) -> None:
    result = compress(tiny_llama, tmp_path / "out", bits=5, effort="fast")
    assert result.plan.sensitivity == "uniform"
    assert {entry.rounding for entry in result.plan.entries} == {"nearest"}
    with pytest.raises(BudgetError, match="effort"):
        compress(tiny_llama, tmp_path / "other", bits=5, effort="extreme")


def test_best_goes_through_each_layer_step_by_step(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    result = compress(tiny_llama, tmp_path / "out", bits=5, effort="best", calibration=text)
    assert result.file_bits_per_weight <= 5


def test_steps_grow_where_tensors_come_out_larger_than_planned() -> None:
    names = [f"t{index}" for index in range(10)]
    steering = Steering(1000.0, dict.fromkeys(names, 100.0), dict.fromkeys(names, 25))
    before = 0.0
    for name in names[:8]:
        assert not steering.begin([name])
        assert steering.octaves(name) >= before
        before = steering.octaves(name)
        steering.took(name, 102.0)
        # What is rounded at the same time does not count yet: steps do not depend on who is first.
        assert steering.octaves("t8") <= before + 1e-9
    assert before > 0
    assert steering.begin(["t8", "t9"])
    assert steering.octaves("t8") > before
    assert steering.left("t8") is None
    steering.took("t8", 100.0)
    assert steering.left("t9") == pytest.approx(1000 - 8 * 102 - 100)
