"""The trainer: it minimizes, a resumed run is the same run, and what goes wrong is said."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_training as tiny
import torch
from torch import Tensor, nn

from octavo.base.errors import CheckpointError, ConfigurationError, OutputError, TrainingError
from octavo.checkpoints.safetensors import open_safetensors
from octavo.training import TrainingResult, next_token_loss, train
from octavo.training.optimizers import make_optimizer


def trained(directory: Path | None = None, hooks: Any = (), **changes: Any) -> tuple[nn.Module, TrainingResult]:
    model = tiny.model()
    config = tiny.config(**changes)
    return model, train(
        model, next_token_loss, tiny.source(), config, directory=directory, held_out=tiny.source(seed=None), hooks=hooks
    )


def figures(directory: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


class Killed(Exception):
    pass


def kill_at(step: int) -> Callable[[int, nn.Module, torch.optim.Optimizer], None]:
    def hook(now: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if now == step:
            raise Killed

    return hook


class Counting:
    """A hook that remembers."""

    def __init__(self) -> None:
        self.calls = 0
        self.trace = torch.zeros(3, dtype=torch.float64)

    def __call__(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.calls += 1
        self.trace[step % 3] += step

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls, "trace": self.trace}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.calls, self.trace = state["calls"], state["trace"]


def test_it_minimizes_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, result = trained(steps=80, optimizer__learning_rate=2e-2)
    assert result.losses[0].item() == pytest.approx(math.log(256), rel=0.01)
    # Better than how often each letter occurs, so it looks at what came before.
    share = np.bincount(np.frombuffer(tiny.TEXT, np.uint8)) / len(tiny.TEXT)
    assert result.losses[-1] < -sum(each * math.log(each) for each in share if each)
    assert result.held_out[-1][1] == pytest.approx(float(result.losses[-1]), abs=0.5)
    assert (result.tokens, result.step, result.finished) == (80 * 2 * 2 * tiny.LENGTH, 80, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("killed", [5, 7])
def test_a_killed_run_goes_on_to_the_same_bits(killed: int, tmp_path: Path) -> None:
    straight, through = Counting(), Counting()
    model, result = trained(tmp_path / "straight", [straight], checkpointing__every=5, logging__evaluate=2)
    with pytest.raises(Killed):
        trained(tmp_path / "killed", [Counting(), kill_at(killed)], checkpointing__every=5, logging__evaluate=2)
    again, resumed = trained(tmp_path / "killed", [through, print_nothing], checkpointing__every=5, logging__evaluate=2)
    assert torch.equal(result.losses, resumed.losses)
    assert result.held_out == resumed.held_out
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True))
    files = [tmp_path / name / "step-00000010.safetensors" for name in ("straight", "killed")]
    one, two = map(open_safetensors, files)
    assert one.entries == two.entries
    assert any(name.startswith("optimizer/") and name.endswith("exp_avg_sq") for name in one.entries)
    assert all(torch.equal(one.read(name), two.read(name)) for name in one.entries)
    assert (straight.calls, straight.trace.tolist()) == (through.calls, through.trace.tolist())
    lines = [figures(file.parent) for file in files]
    timed = ("seconds", "tokens_per_second")
    plain = [[{key: line[key] for key in line if key not in timed} for line in each] for each in lines]
    assert plain[0] == plain[1]


def print_nothing(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A hook that takes the place of one without a state."""


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    _, first = trained(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    _, second = trained(tmp_path)
    assert torch.equal(first.losses, second.losses)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    trained(tmp_path, checkpointing__every=2, checkpointing__keep=3)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [
        f"step-{step:08d}.safetensors" for step in (6, 8, 10)
    ]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(sent: signal.Signals, tmp_path: Path) -> None:
    def send(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step == 3:
            os.kill(os.getpid(), sent)

    _, straight = trained()
    if sent == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path, [send])
    else:
        _, stopped = trained(tmp_path, [send])
        assert (stopped.step, stopped.finished) == (4, False)
    assert (tmp_path / "step-00000004.safetensors").exists()
    _, resumed = trained(tmp_path, [print_nothing])
    assert torch.equal(straight.losses, resumed.losses)


def test_accumulation_is_a_larger_batch() -> None:
    results = []
    for batch, accumulation in ((4, 1), (2, 2), (1, 4)):
        model = tiny.model()
        config = tiny.config(optimizer__accumulation=accumulation)
        results.append(train(model, next_token_loss, tiny.source(batch), config).losses)
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results[2], results[0], rtol=1e-5, atol=1e-5)


def test_recomputing_changes_nothing() -> None:
    plain, result = trained()
    again, recomputed = trained(precision__recompute=True)
    assert torch.equal(result.losses, recomputed.losses)
    assert all(torch.equal(one, two) for one, two in zip(plain.parameters(), again.parameters(), strict=True))
    assert "forward" not in vars(next(iter(again.blocks)))


def test_bfloat16_keeps_weights_in_float32() -> None:
    _, exact = trained()
    model, result = trained(precision__dtype="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    torch.testing.assert_close(result.losses, exact.losses, rtol=0.02, atol=0.0)
    assert not torch.equal(result.losses, exact.losses)


def test_only_matrices_decay() -> None:
    model = tiny.model()
    groups = make_optimizer(model, tiny.config().optimizer).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert {parameter.ndim for parameter in groups[1]["params"]} == {1}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_draws_belong_to_the_batch(tmp_path: Path) -> None:
    """An objective that draws goes on as if nothing had happened, too."""

    def noisy(model: Any, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        tokens = batch["tokens"].clone()
        hidden = torch.rand(tokens.shape, generator=generator) < 0.3
        loss, _ = next_token_loss(model, {"tokens": tokens.masked_fill(hidden, 0)}, generator)
        return loss, {"masked": hidden.float().mean()}

    straight = train(tiny.model(), noisy, tiny.source(), tiny.config())
    config = tiny.config(checkpointing__every=4)
    with pytest.raises(Killed):
        train(tiny.model(), noisy, tiny.source(), config, directory=tmp_path, hooks=[kill_at(6)])
    resumed = train(tiny.model(), noisy, tiny.source(), config, directory=tmp_path)
    assert torch.equal(straight.losses, resumed.losses)
    shares = [line["masked"] for line in figures(tmp_path)]
    assert len(shares) == 10
    assert len(set(shares)) > 3


@pytest.mark.parametrize("where", ["weight", "output", "gradient", "data"])
def test_what_is_not_finite_stops_the_run_and_is_named(where: str, tmp_path: Path) -> None:
    class Overflowing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, inputs: Tensor) -> Tensor:
            return inputs.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * math.inf

    def spoil(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step == 4 and where == "weight":
            with torch.no_grad():
                model.get_parameter("model.layers.1.mlp.up_proj.weight")[0, 0] = math.nan
        if step == 4 and where == "output":
            model.get_submodule("model.layers.0.mlp.gate_proj").register_forward_hook(lambda *_: _[2] * math.nan)
        if step == 4 and where == "gradient":
            model.get_submodule("model.norm").register_forward_hook(lambda *_: Overflowing.apply(_[2]))

    def objective(model: Any, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict]:
        loss, figures = next_token_loss(model, batch, generator)
        return loss + batch["offset"].mean() if "offset" in batch else loss, figures

    class Spoiled:
        tokens = 1

        def batch(self, index: int) -> dict[str, Tensor]:
            bad = torch.full((2,), math.nan if where == "data" and index == 9 else 0.0)
            return {**tiny.source().batch(index), "offset": bad}

    names = {
        "weight": "the weight model.layers.1.mlp.up_proj.weight",
        "output": "the output of model.layers.0.mlp.gate_proj",
        "gradient": "the gradient of model.embed_tokens.weight",
        "data": "the data's offset",
    }
    model = tiny.model()
    config = tiny.config(checkpointing__every=2)
    with pytest.raises(TrainingError, match=f"at step 4: {names[where]} is the first") as caught:
        train(model, objective, Spoiled(), config, directory=tmp_path, hooks=[spoil])
    assert "step-00000004.safetensors is the last good checkpoint" in caught.value.remedy
    kept = open_safetensors(tmp_path / "step-00000004.safetensors")
    assert all(bool(torch.isfinite(kept.read(name)).all()) for name in kept.entries)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"steps": 12}, "steps was 10 and is 12"),
        ({"optimizer__learning_rate": 1.0}, "optimizer.learning_rate was 0.003 and is 1.0"),
    ],
)
def test_another_config_is_refused(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    trained(tmp_path)
    with pytest.raises(CheckpointError, match=problem):
        trained(tmp_path, **change)
    trained(tmp_path, logging__every=5, checkpointing__keep=1, precision__recompute=True)


def test_another_text_or_model_is_refused(tmp_path: Path) -> None:
    def go(model: nn.Module, vocabulary: str) -> None:
        identity = {"vocabulary": vocabulary}
        train(model, next_token_loss, tiny.source(), tiny.config(), directory=tmp_path, identity=identity)

    go(tiny.model(), "256")
    with pytest.raises(CheckpointError, match="the vocabulary was 256 and is 512"):
        go(tiny.model(), "512")
    with pytest.raises(CheckpointError, match=r"gate_proj.weight is \[96, 32\] in the checkpoint and \[64, 32\]"):
        go(tiny.model(inner=64), "256")
    with pytest.raises(CheckpointError, match=r"only the model has the tensor lm_head\.weight"):
        go(tiny.model(tied=False), "256")


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = trained()[1]
    sync = os.fsync
    synced: list[int] = []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"no space left while writing .*step-00000004"):
            trained(tmp_path, checkpointing__every=2)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000002.safetensors"]
    assert torch.equal(trained(tmp_path, checkpointing__every=2)[1].losses, straight.losses)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    trained(tmp_path)
    newest = tmp_path / "step-00000010.safetensors"
    newest.write_bytes(newest.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"step-00000010\.safetensors is truncated"):
        trained(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"optimizer__name": "adan"}, "choose one of adamw"),
        ({"schedule__name": "linear"}, "choose one of constant, cosine, wsd"),
        ({"precision__device": "gpu"}, "there is no device 'gpu'"),
    ],
)
def test_settings_that_do_not_exist_are_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        trained(**change)


def test_a_model_without_blocks_cannot_recompute() -> None:
    config = tiny.config(precision__recompute=True)
    with pytest.raises(ConfigurationError, match="of which blocks"):
        train(nn.Linear(2, 2), next_token_loss, tiny.source(), config)


def test_tensorboard_is_asked_for_by_name(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="install the extra octavo[train]")
    trained(tmp_path, logging__tensorboard=True)
    assert list((tmp_path / "tensorboard").glob("events.*"))
