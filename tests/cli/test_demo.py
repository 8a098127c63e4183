"""The demo's steps on a tiny model: everything is measured, reported, and not done twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from octavo.base.errors import OutputError
from octavo.cli import app
from octavo.cli.demo import HubTools
from octavo.compress import demo
from octavo.compress.report import ReportData, read_report
from octavo.models import load_language_model

SIZE = {"bits": (6.0, 4.0), "tried": ("int@4 b16 absmax:bf16",), "length": 24, "count": 3}


@pytest.fixture(scope="module")
def finished(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReportData]:
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, demo.run_demo(out, HubTools(), source=tiny_llama, **SIZE)


def test_every_budget_is_met_measured_and_sampled(finished: tuple[Path, ReportData]) -> None:
    _, data = finished
    assert [result.name for result in data.results] == ["6 bits", "4 bits"]
    for result, budget in zip(data.results, SIZE["bits"], strict=True):
        assert result.file_bits <= budget
        assert result.divergence > 0
        assert result.sample
        assert all(row.relative_error is not None for row in result.tensors)
    assert data.results[0].divergence < data.results[1].divergence
    (point,) = data.points
    assert point.label == "int@4 b16 absmax:bf16"
    assert 5 < point.bits < 6
    assert point.divergence > 0
    assert any(row.measured_loss for result in data.results for row in result.tensors)
    assert data.original.sample


def test_report_is_written_and_carries_its_data(finished: tuple[Path, ReportData]) -> None:
    out, data = finished
    assert read_report(out / "report.html") == data


def test_finished_work_is_not_done_again(
    finished: tuple[Path, ReportData], tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, data = finished
    for name in ("compress", "evaluate_each", "load_language_model", "measured_losses", "write_permuted_reference"):
        monkeypatch.delattr(demo, name)
    assert demo.run_demo(out, HubTools(), source=tiny_llama, **SIZE) == data


def test_only_what_is_missing_is_evaluated(
    finished: tuple[Path, ReportData], tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, data = finished
    (out / "records" / "4-bits-loss.json").unlink()
    loaded = []

    def load(path: Path) -> tuple[Any, Any]:
        loaded.append(path.name)
        return load_language_model(path)

    monkeypatch.setattr(demo, "load_language_model", load)
    assert demo.run_demo(out, HubTools(), source=tiny_llama, **SIZE) == data
    assert loaded == ["4-bits", "reference"]


def test_a_folder_of_someone_else_is_not_removed(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "6-bits").mkdir()
    (tmp_path / "6-bits" / "config.json").write_text("{}")
    with pytest.raises(OutputError, match="in the demo's way"):
        demo.run_demo(tmp_path, HubTools(), source=tiny_llama, **SIZE)
    assert (tmp_path / "6-bits" / "config.json").exists()


@pytest.mark.parametrize("bits", ["", "four", "4,,3", "0", "99", "4,nan"])
def test_budgets_that_are_none_are_one_line_and_code_2(bits: str, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo"), "--bits", bits])
    assert shown.exit_code == 2
    assert shown.stderr.startswith("octavo: error: --bits ")
    assert not (tmp_path / "demo").exists()
