"""What is said of speed adds up; how fast it is, no test asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_decoders import make
from typer.testing import CliRunner

from octavo.base.errors import ModelError
from octavo.base.memory import peak_memory, resident_memory
from octavo.cli import app
from octavo.decoding import speed as speed_module
from octavo.decoding.speed import Speed, measure_speed


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_module, "READ", 1 << 20)


def test_the_roofline_is_bandwidth_over_bytes() -> None:
    speed = Speed(
        1, 512, 100.0, 20.0, weight_bytes=9 * 10**8, cache_bytes=10**8, outside=0.1, python=0.02, bandwidth=4e10
    )
    assert speed.achieved == 20e9
    assert speed.roofline == 40.0
    assert speed.achieved / speed.bandwidth == speed.decode / speed.roofline


def test_bytes_are_those_of_weights_and_seen_tokens(tmp_path: Path) -> None:
    decoder = make("mistral", tmp_path)[1]
    found = measure_speed(decoder, prompt=20, tokens=10, repeats=1)
    assert found.prefill > 0
    assert found.decode > 0
    assert 0 <= found.outside < 1
    assert 0 <= found.python < 1
    dense = sum(tensor.numel() for tensor in make("mistral", tmp_path)[0].state_dict().values())
    assert found.weight_bytes == 4 * (dense - 61 * 36)
    # Three layers see 7 tokens of 2 heads: keys of 12 channels, values of 12 that are padded to 16.
    assert found.cache_bytes == 3 * 7 * 2 * (12 + 16) * 4


def test_senseless_numbers_are_refused(tmp_path: Path) -> None:
    decoder = make("llama 2", tmp_path)[1]
    with pytest.raises(ModelError, match="no sense"):
        measure_speed(decoder, prompt=0)
    with pytest.raises(ModelError, match="context of 96"):
        measure_speed(decoder, prompt=90, tokens=7)


def test_memory_is_counted_in_bytes() -> None:
    # Python with torch takes more than 50 MB, and this process less than a terabyte.
    assert 5e7 < resident_memory() <= peak_memory() < 1e12


def test_bench_prints_one_table(tiny_llama: Path) -> None:
    shown = CliRunner().invoke(app, ["bench", str(tiny_llama), "--prompt", "8", "--tokens", "4", "--repeats", "1"])
    assert shown.exit_code == 0
    for row in ("prompt, tokens/s", "answer, tokens/s", "share of the roofline", "its peak while loading"):
        assert row in shown.stdout


def test_bench_says_what_it_does_not_run(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["bench", str(tmp_path)])
    assert shown.exit_code == 2
    assert "config.json" in shown.stderr
