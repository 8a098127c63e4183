"""A run that is killed or interrupted anywhere and given again makes the bytes of one that never was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from octavo.checkpoints import CheckpointWriter
from octavo.compress import compress
from octavo.compress.remembering import notes_path, partial_path

# Every piece is followed by a pause, so that the kill falls between the pieces it is meant for.
PROGRAM = """
import signal, sys, time
from pathlib import Path
from octavo.checkpoints import CheckpointWriter
from octavo.compress import compress

signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background has it ignored
write = CheckpointWriter.write

def slow(self, name, parts, note=""):
    write(self, name, parts, note)
    time.sleep(0.2)

CheckpointWriter.write = slow
try:
    compress(sys.argv[1], sys.argv[2], bits=5, calibration=Path(sys.argv[3]), jobs=1)
except KeyboardInterrupt:
    sys.exit(130)
"""


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@pytest.fixture(scope="module")
def uninterrupted(tiny_llama: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "out"
    compress(tiny_llama, out, bits=5, calibration=text)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    return contents(out)


@pytest.mark.parametrize(("how", "after"), [(signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGINT, 9)])
def test_a_run_ended_after_some_pieces_goes_on(
    tiny_llama: Path, text: Path, tmp_path: Path, uninterrupted: dict[str, bytes], how: signal.Signals, after: int
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", PROGRAM, tiny_llama, out, text]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    pieces = partial_path(out) / "pieces"
    try:
        while running.poll() is None and len(list(pieces.glob("*.safetensors"))) < after:
            time.sleep(0.01)
        while running.poll() is None and not notes_path(out).exists():
            time.sleep(0.01)
        running.send_signal(how)
        running.wait(timeout=60)
    finally:
        running.kill()
        _, errors = running.communicate()
    assert running.returncode == (130 if how == signal.SIGINT else -how), errors.decode()
    assert not out.exists()
    assert after <= len(list(pieces.glob("*.safetensors"))) < 17
    compress(tiny_llama, out, bits=5, calibration=text)
    assert contents(out) == uninterrupted
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


class Stop(BaseException):
    """Stands for a kill: nothing between here and the test may catch it."""


@pytest.mark.parametrize("after", [0, 2, 7, 15])
def test_done_pieces_are_not_made_again(
    tiny_llama: Path,
    text: Path,
    tmp_path: Path,
    uninterrupted: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    write, written = CheckpointWriter.write, []

    def stopping(self: CheckpointWriter, name: str, parts: dict, note: str = "") -> None:
        if len(written) == after:
            raise Stop
        written.append(name)
        write(self, name, parts, note)

    def counting(self: CheckpointWriter, name: str, parts: dict, note: str = "") -> None:
        assert name not in written
        write(self, name, parts, note)

    monkeypatch.setattr(CheckpointWriter, "write", stopping)
    with pytest.raises(Stop):
        compress(tiny_llama, tmp_path / "out", bits=5, calibration=text)
    monkeypatch.setattr(CheckpointWriter, "write", counting)
    compress(tiny_llama, tmp_path / "out", bits=5, calibration=text)
    assert contents(tmp_path / "out") == uninterrupted


def test_calibration_is_not_repeated(
    tiny_llama: Path, text: Path, tmp_path: Path, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object, **options: object) -> None:
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(CheckpointWriter, "write", failing)
        with pytest.raises(Stop):
            compress(tiny_llama, tmp_path / "out", bits=5, calibration=text)
    assert notes_path(tmp_path / "out").exists()
    with monkeypatch.context() as patched:
        patched.setattr("octavo.compress.remembering.calibrate", failing)
        compress(tiny_llama, tmp_path / "out", bits=5, calibration=text)
    assert contents(tmp_path / "out") == uninterrupted


def test_pieces_of_another_budget_are_not_taken_over(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object, **options: object) -> None:
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(CheckpointWriter, "finish", failing)
        with pytest.raises(Stop):
            compress(tiny_llama, tmp_path / "out", bits=6, sensitivity="uniform")
    compress(tiny_llama, tmp_path / "out", bits=5, sensitivity="uniform")
    compress(tiny_llama, tmp_path / "clean", bits=5, sensitivity="uniform")
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


@pytest.mark.parametrize("garbage", [b"", b"no notes at all", bytes(100)])
def test_notes_cut_short_are_made_again(
    tiny_llama: Path, text: Path, tmp_path: Path, uninterrupted: dict[str, bytes], garbage: bytes
) -> None:
    notes_path(tmp_path / "out").write_bytes(garbage)
    compress(tiny_llama, tmp_path / "out", bits=5, calibration=text)
    assert contents(tmp_path / "out") == uninterrupted
