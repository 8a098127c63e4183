"""What is remembered is not done again, unless its key changed or its record is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo.compress.records import remembered


def test_work_is_done_once_for_a_key(tmp_path: Path) -> None:
    path = tmp_path / "records" / "a.json"
    calls: list[int] = []

    def make() -> dict[str, float]:
        calls.append(1)
        return {"loss": 0.1 + 0.2}

    assert remembered(path, "one", make) == {"loss": 0.1 + 0.2}
    assert remembered(path, "one", make) == {"loss": 0.1 + 0.2}
    assert len(calls) == 1
    remembered(path, "two", make)
    assert len(calls) == 2


@pytest.mark.parametrize("damage", ["", "{", "[1]", "{}", '{"key": "one"'])
def test_a_damaged_record_is_replaced(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(damage)
    assert remembered(path, "one", lambda: 7) == 7
    assert remembered(path, "one", lambda: 8) == 7


def test_interrupted_work_leaves_no_record(tmp_path: Path) -> None:
    def make() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remembered(tmp_path / "a.json", "one", make)
    assert list(tmp_path.iterdir()) == []
