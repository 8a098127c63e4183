"""`octavo train`: from a config to a model, through signals, kills and other numbers of processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from octavo.checkpoints.safetensors import open_safetensors
from octavo.cli import app
from octavo.training import TrainingConfig

TEXT = "".join(
    f"Sheet {number} is folded {number % 3} times, and lies on sheet {number + 1}.\n" for number in range(200)
)
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
CONFIG = """\
steps = 6
[model]
hidden = 32
layers = 2
heads = 2
[data]
tokenizer = "bytes"
text = ["text.txt"]
length = 32
batch = 2
held_out = 0.1
[optimizer]
accumulation = 4
[schedule]
warmup = 2
[precision]
device = "cpu"
[checkpointing]
every = 3
[logging]
every = 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a config and a text."""
    (tmp_path / "small.toml").write_text(CONFIG)
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def octavo(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["train", *arguments])


def started(*arguments: str) -> subprocess.Popen[str]:
    """The program itself."""
    return subprocess.Popen(
        [sys.executable, "-m", "octavo", "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def losses(run: Path, step: int = 6) -> torch.Tensor:
    return open_safetensors(run / f"step-{step:08d}.safetensors").read("losses")


def test_from_a_config_to_a_model(folder: Path) -> None:
    done = octavo("small.toml", "--set", "logging.evaluate=3", "--seed", "1")
    assert done.exit_code == 0, done.output
    assert "6 steps, 1,536 tokens" in done.output
    assert "small/model" in done.output
    names = {path.name for path in (folder / "small").iterdir()}
    assert names == {"data", "metrics.jsonl", "model", "step-00000003.safetensors", "step-00000006.safetensors"}
    lines = [json.loads(line) for line in (folder / "small" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "held_out_loss" in line] == [3, 6]
    assert {"tokens", "tokens_per_second", "learning_rate", "gradient_norm"} <= lines[0].keys()
    told = CliRunner().invoke(app, ["generate", "small/model", "--prompt", "Sheet", "--tokens", "3"])
    assert told.exit_code == 0, told.output
    before = (folder / "small" / "model" / "model.safetensors").stat().st_mtime_ns
    assert octavo("small.toml", "--set", "logging.evaluate=3", "--seed", "1").exit_code == 0
    assert (folder / "small" / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_the_example_is_a_config(folder: Path) -> None:
    shown = octavo("--example")
    (folder / "example.toml").write_text(shown.output)
    assert TrainingConfig.from_toml(folder / "example.toml").schedule.warmup == 50
    account = octavo("example.toml", "--dry-run", "--batch", "4", "--learning-rate", "0.1", "--device", "cpu")
    assert account.exit_code == 0, account.output
    assert "1,066,112" in account.output
    assert "307,200" in account.output
    assert sorted(path.name for path in folder.iterdir()) == ["example.toml", "small.toml", "text.txt"]


def test_training_starts_from_a_model(folder: Path, tiny_llama: Path) -> None:
    given = ("--set", f"model.start={tiny_llama}", "--set", f"data.tokenizer={tiny_llama}", "--steps", "1")
    done = octavo("small.toml", *given, "--learning-rate", "0")
    assert done.exit_code == 0, done.output
    one, two = (open_safetensors(path / "model.safetensors") for path in (tiny_llama, folder / "small" / "model"))
    assert one.entries == two.entries
    assert all(torch.equal(one.read(name), two.read(name)) for name in one.entries)
    assert "has 384 tokens and a context of 256" in octavo("small.toml", *given, "--set", "data.length=257").stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "CONFIG is missing"),
        (("none.toml",), "cannot read none.toml"),
        (("small.toml", "--set", "schedule.warmpu=1"), "did you mean 'schedule.warmup'?"),
        (("small.toml", "--set", "model.heads=5"), "cannot be divided among 5 heads"),
        (("small.toml", "--text", "none.txt"), "cannot read the text none.txt"),
        (("small.toml", "--set", "data.length=100000"), "one sequence needs 100001"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], problem: str, folder: Path) -> None:
    done = octavo(*arguments)
    assert done.exit_code == 2
    assert problem in done.stderr
    assert len(done.stderr.strip().splitlines()[-1]) == len(done.stderr.strip().splitlines()[-1].strip())


def test_another_vocabulary_is_refused(folder: Path) -> None:
    bpe = ("--set", "data.tokenizer=bpe", "--set", "steps=2")
    assert octavo("small.toml", *bpe, "--set", "data.vocabulary=280").exit_code == 0
    done = octavo("small.toml", *bpe, "--set", "data.vocabulary=290")
    assert done.exit_code == 2
    assert "data.vocabulary was 280 and is 290" in done.stderr
    assert "the vocabulary was 280 and is 290" in done.stderr


def test_terminated_and_killed_runs_go_on(folder: Path) -> None:
    straight = octavo("small.toml", "straight", "--steps", "30")
    assert straight.exit_code == 0, straight.output
    slow = ("small.toml", "run", "--steps", "30", "--set", "checkpointing.every=1", "--set", "logging.every=1")
    for sent, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)):
        before = {path.name for path in (folder / "run").glob("step-*.safetensors")}
        process = started(*slow)
        while process.poll() is None:
            if {path.name for path in (folder / "run").glob("step-*.safetensors")} - before:
                process.send_signal(sent)
                break
            time.sleep(0.01)
        said = process.communicate()[0]
        assert process.returncode == code, said
        assert not (folder / "run" / "model").exists()
    resumed = octavo(*slow)
    assert resumed.exit_code == 0, resumed.output
    assert "Going on from step" in resumed.stderr
    assert torch.equal(losses(folder / "straight", 30), losses(folder / "run", 30))
    weights = [(folder / name / "model" / "model.safetensors").read_bytes() for name in ("straight", "run")]
    assert weights[0] == weights[1]


def test_two_processes_are_one_run(folder: Path) -> None:
    """Replicated and sharded, as torchrun starts them; and when one is killed, nothing is lost."""
    assert octavo("small.toml", "one").exit_code == 0
    together = subprocess.run(
        [*LAUNCHER, str(Path(__file__).parents[1] / "support" / "train_together.py"), "small.toml"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for strategy in ("ddp", "fsdp"):
        torch.testing.assert_close(losses(folder / strategy), losses(folder / "one"), rtol=1e-5, atol=1e-5)
        # The run goes on from its middle with one process instead of two.
        (folder / strategy / "step-00000006.safetensors").unlink()
        assert octavo("small.toml", strategy).exit_code == 0
        files = [open_safetensors(folder / name / "step-00000006.safetensors") for name in ("one", strategy)]
        assert files[0].entries == files[1].entries
        for name in files[0].entries:
            torch.testing.assert_close(files[1].read(name), files[0].read(name), rtol=1e-3, atol=1e-5)
    assert together.returncode != 0
    assert "the processes lost each other" in together.stdout, together.stderr
    kept = max((folder / "killed").glob("step-*.safetensors"))
    step = int(kept.stem.removeprefix("step-"))
    assert len(losses(folder / "killed", step)) == step < 40
    again = octavo("small.toml", "killed", "--steps", "40")
    assert again.exit_code == 0, again.output
    assert f"Going on from step {step}" in again.stderr


def test_processes_that_cannot_share_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert "distributed.strategy is none" in octavo("small.toml").stderr
    done = octavo("small.toml", "--set", "distributed.strategy=ddp")
    assert "4 micro-batches a step cannot be shared by 3 processes" in done.stderr
