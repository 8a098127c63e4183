"""The writer, interrupted: by exceptions, a full disk, another process, other work, and a kill at every step."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from octavo.base.errors import OutputError
from octavo.checkpoints import CheckpointWriter, open_checkpoint

CONFIG = {"model_type": "llama"}
NAMES = ("b.weight", "a.weight", "c.weight")


class Messages:
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def track(self, items, description, total=None):
        yield from items

    def message(self, text: str) -> None:
        self.said.append(text)


def parts(name: str) -> dict[str, torch.Tensor]:
    seed = ord(name[0])
    return {
        "codes": torch.full((5,), seed, dtype=torch.uint8),
        "scales": torch.full((3, 1), seed, dtype=torch.bfloat16),
        "": torch.tensor([seed], dtype=torch.float32),
    }


def write_all(writer: CheckpointWriter) -> int:
    made = 0
    for name in NAMES:
        if not writer.done(name):
            writer.write(name, parts(name))
            made += 1
    return made


def digest(path: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(path.iterdir())}


def make(out: Path) -> dict[str, str]:
    with CheckpointWriter(out, "key", max_shard_bytes=20) as writer:
        write_all(writer)
        writer.finish(CONFIG, files={"plan.json": "{}\n"})
    return digest(out)


def test_result_and_nothing_else(tmp_path: Path) -> None:
    assert list(make(tmp_path / "out")) == [
        "config.json",
        *(f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)),
        "model.safetensors.index.json",
        "plan.json",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/config.json").read_text() == '{\n  "model_type": "llama"\n}\n'
    checkpoint = open_checkpoint(tmp_path / "out")
    assert checkpoint.names == tuple(sorted(n for name in NAMES for n in (name, f"{name}.codes", f"{name}.scales")))
    assert torch.equal(checkpoint.read("a.weight.codes"), parts("a.weight")["codes"])


def test_parts_of_a_tensor_share_a_shard(tmp_path: Path) -> None:
    make(tmp_path / "out")
    weight_map = (tmp_path / "out/model.safetensors.index.json").read_text()
    for name, number in zip(sorted(NAMES), (1, 2, 3), strict=True):
        assert weight_map.count(f'"{name}') == 3
        assert weight_map.count(f'"model-{number:05d}-of-00003.safetensors"') == 3


def test_interrupted_runs_go_on_and_yield_the_same_bytes(tmp_path: Path) -> None:
    expected = make(tmp_path / "whole")
    with CheckpointWriter(tmp_path / "out", "key", max_shard_bytes=20) as writer:
        writer.write("c.weight", parts("c.weight"))
    assert not (tmp_path / "out").exists()
    with CheckpointWriter(tmp_path / "out", "key", max_shard_bytes=20) as writer:
        assert writer.names == ("c.weight",)
        assert write_all(writer) == 2
        writer.finish(CONFIG, files={"plan.json": "{}\n"})
    assert digest(tmp_path / "out") == expected


def test_damaged_pieces_are_made_again(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path / "out", "key") as writer:
        write_all(writer)
    pieces = sorted((tmp_path / ".out.partial/pieces").iterdir())
    os.truncate(pieces[0], 40)
    pieces[1].rename(pieces[1].with_name("foreign"))
    with CheckpointWriter(tmp_path / "out", "key") as writer:
        assert len(writer.names) == 1


def test_other_work_is_discarded_and_said(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path / "out", "one") as writer:
        write_all(writer)
    messages = Messages()
    with CheckpointWriter(tmp_path / "out", "two", progress=messages) as writer:
        assert writer.names == ()
    assert len(messages.said) == 1
    assert "Discarding" in messages.said[0]


def test_existing_output_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists already"), CheckpointWriter(tmp_path / "out", "key"):
        pass
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(OutputError, match="exists already"), CheckpointWriter(tmp_path / "link", "key"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]


def test_output_that_appears_meanwhile_is_not_touched(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path / "out", "key") as writer:
        write_all(writer)
        (tmp_path / "out").mkdir()
        with pytest.raises(OutputError, match="exists already"):
            writer.finish(CONFIG)
    with pytest.raises(OutputError, match="exists already"), CheckpointWriter(tmp_path / "out", "key"):
        pass
    assert list((tmp_path / "out").iterdir()) == []


def test_two_writers_at_once(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path / "out", "key") as writer:
        with pytest.raises(OutputError, match="another process is writing"), CheckpointWriter(tmp_path / "out", "key"):
            pass
        write_all(writer)
        writer.finish(CONFIG)
    assert (tmp_path / "out").exists()


def test_a_run_killed_while_cleaning_up_is_known_as_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with CheckpointWriter(tmp_path / "out", "key") as writer, monkeypatch.context() as patch:
        write_all(writer)
        patch.setattr("shutil.rmtree", lambda *_, **__: None)
        writer.finish(CONFIG)
    assert (tmp_path / ".out.partial").exists()
    with pytest.raises(OutputError, match="exists already"), CheckpointWriter(tmp_path / "out", "other"):
        pass
    with CheckpointWriter(tmp_path / "out", "key") as writer:
        assert writer.finished
        assert write_all(writer) == 0
        writer.finish(CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("step", ["write", "finish"])
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, step: str) -> None:
    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with CheckpointWriter(tmp_path / "out", "key") as writer:
        if step == "finish":
            write_all(writer)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OutputError, match="no space left") as caught:
                writer.write("a.weight", parts("a.weight")) if step == "write" else writer.finish(CONFIG)
    assert "\n" not in str(caught.value)
    assert "goes on where it stopped" in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("*.part"))
    with CheckpointWriter(tmp_path / "out", "key") as writer:
        write_all(writer)
        writer.finish(CONFIG)
    assert set(open_checkpoint(tmp_path / "out").names) >= set(NAMES)


def test_the_system_s_own_refusal(tmp_path: Path) -> None:
    """A real limit on file sizes, as a full disk would, stops the write in its middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with CheckpointWriter(tmp_path / "out", "key") as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(OutputError, match="no space left"):
                writer.write("a.weight", {"": torch.zeros(1_000_000)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.rglob("*.part"))


def test_too_little_space_is_known_before_assembling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with CheckpointWriter(tmp_path / "out", "key") as writer:
        write_all(writer)
        status = os.statvfs(tmp_path)
        monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*status[:4], 0, *status[5:])))
        with pytest.raises(OutputError, match="0 B free"):
            writer.finish(CONFIG)


def test_unwritable_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"), CheckpointWriter(tmp_path / "file/out", "key"):
        pass


def test_misuse(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path / "out", "key") as writer:
        with pytest.raises(ValueError, match="no tensor"):
            writer.finish(CONFIG)
        writer.write("a", {"b": torch.zeros(1)})
        with pytest.raises(ValueError, match="written already"):
            writer.write("a", {"": torch.zeros(1)})
        with pytest.raises(ValueError, match="belongs to both"):
            writer.write("a.b", {"": torch.zeros(1)})


def test_killed_at_every_step(tmp_path: Path) -> None:
    """SIGKILL before each sync, rename and removal in turn; every time the next run yields the same bytes."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("kill_everywhere.py"), tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) > 20


def other(name: str) -> dict[str, torch.Tensor]:
    return {part: torch.full_like(tensor, 7) for part, tensor in parts(name).items()}


def test_revisions_take_the_place_of_pieces(tmp_path: Path) -> None:
    plain = make(tmp_path / "plain")
    with CheckpointWriter(tmp_path / "out", "key", max_shard_bytes=20) as writer:
        write_all(writer)
        size = writer.nbytes
        writer.revise("a.weight", other("a.weight"))
        assert torch.equal(writer.read("a.weight")["codes"], parts("a.weight")["codes"])
        writer.finish(CONFIG, files={"plan.json": "{}\n"})
    assert digest(tmp_path / "out").keys() == plain.keys()
    revised = open_checkpoint(tmp_path / "out")
    for name in NAMES:
        expected = other(name) if name == "a.weight" else parts(name)
        for part, tensor in expected.items():
            assert torch.equal(revised.read(f"{name}.{part}" if part else name), tensor)
    assert sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors")) == size
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["out", "plain"]


def test_an_interrupted_run_loses_its_revisions(tmp_path: Path) -> None:
    plain = make(tmp_path / "plain")
    with CheckpointWriter(tmp_path / "out", "key", max_shard_bytes=20) as writer:
        write_all(writer)
        writer.revise("b.weight", other("b.weight"))
    with CheckpointWriter(tmp_path / "out", "key", max_shard_bytes=20) as writer:
        assert write_all(writer) == 0
        writer.finish(CONFIG, files={"plan.json": "{}\n"})
    assert digest(tmp_path / "out") == plain


def test_a_revision_has_the_dtypes_and_shapes_of_what_it_revises(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path / "out", "key") as writer:
        write_all(writer)
        for wrong in ({}, {"": torch.zeros(1)}, {**other("a.weight"), "scales": torch.zeros(3, 1)}):
            with pytest.raises(ValueError, match="other parts"):
                writer.revise("a.weight", wrong)
        with pytest.raises(KeyError):
            writer.revise("d.weight", other("a.weight"))
