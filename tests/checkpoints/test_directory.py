"""Directories that are not what they seem end in one line that says what and what to do."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from octavo.base.errors import CheckpointError
from octavo.checkpoints import open_checkpoint

INDEX = "model.safetensors.index.json"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    return path


def shard(model: Path, weight_map: object, **tensors: torch.Tensor) -> None:
    save_file(tensors or {"a": torch.zeros(2)}, model / "one.safetensors")
    (model / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def refused(model: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        open_checkpoint(model)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_no_config(model: Path) -> None:
    (model / "config.json").unlink()
    refused(model, "no config.json")


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1, "a": 2}', '{"a": NaN}', "[" * 100_000, '{"a": "\\ud800"}'])
def test_config_that_is_no_object(model: Path, text: str) -> None:
    (model / "config.json").write_text(text)
    refused(model, r"config\.json is not")


def test_nothing_inside(model: Path) -> None:
    refused(model, "has no safetensors file")


def test_pickles_are_never_loaded(model: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    refused(model, r"pytorch_model\.bin.*never loads a pickle.*save_pretrained")


def test_several_files_without_an_index(model: Path) -> None:
    for name in "ab":
        save_file({"a": torch.zeros(2)}, model / f"{name}.safetensors")
    refused(model, "several safetensors files")


def test_missing_shard(model: Path) -> None:
    shard(model, {"a": "one.safetensors", "b": "two.safetensors"})
    refused(model, r"cannot find .*two\.safetensors")


def test_truncated_shard(model: Path) -> None:
    shard(model, {"a": "one.safetensors"})
    os.truncate(model / "one.safetensors", (model / "one.safetensors").stat().st_size - 1)
    refused(model, r"one\.safetensors is truncated")


def test_tensor_the_shard_lacks(model: Path) -> None:
    shard(model, {"a": "one.safetensors", "b": "one.safetensors"})
    refused(model, "'b' in one.safetensors, which lacks it")


def test_tensor_the_index_lacks(model: Path) -> None:
    shard(model, {"a": "one.safetensors"}, a=torch.zeros(2), b=torch.zeros(2))
    refused(model, "holds tensor 'b'")


def test_tensor_in_two_shards(model: Path) -> None:
    save_file({"a": torch.zeros(2), "b": torch.zeros(1)}, model / "two.safetensors")
    shard(model, {"a": "one.safetensors", "b": "two.safetensors"})
    refused(model, r"holds tensor 'a'.*places in one")


@pytest.mark.parametrize(
    "name", ["../one.safetensors", "/etc/one.safetensors", "a/one.safetensors", "..\\one.safetensors", "x.bin", "..", 7]
)
def test_shards_outside_the_directory(model: Path, name: object) -> None:
    save_file({"a": torch.zeros(2)}, model.parent / "one.safetensors")
    shard(model, {"a": name})
    refused(model, "no plain name of a safetensors file")


@pytest.mark.parametrize("weight_map", [None, {}, [], "a"])
def test_index_without_a_map(model: Path, weight_map: object) -> None:
    shard(model, weight_map)
    refused(model, "no weight_map")


def test_links_are_followed_as_in_the_hub_cache(model: Path) -> None:
    save_file({"a": torch.ones(2)}, model.parent / "blob")
    (model / "model.safetensors").symlink_to(model.parent / "blob")
    assert torch.equal(open_checkpoint(model).read("a"), torch.ones(2))


def test_pipes_do_not_hang(model: Path) -> None:
    os.mkfifo(model / "model.safetensors")
    refused(model, "not a regular file")


def test_code_is_a_sidecar_only_if_the_config_refers_to_it(model: Path) -> None:
    save_file({"a": torch.ones(2)}, model / "model.safetensors")
    (model / "modeling.py").write_text("")
    assert open_checkpoint(model).sidecars == ()
    (model / "config.json").write_text('{"auto_map": {}}')
    assert open_checkpoint(model).sidecars == (model / "modeling.py",)


def test_a_file_cut_after_opening(model: Path) -> None:
    save_file({"a": torch.ones(2)}, model / "model.safetensors")
    checkpoint = open_checkpoint(model)
    os.truncate(model / "model.safetensors", 20)
    with pytest.raises(CheckpointError, match="truncated"):
        checkpoint.read("a")
    (model / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot read"):
        checkpoint.read("a")


def test_unknown_source(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no file or directory"):
        open_checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="no file or directory"):
        open_checkpoint("no/such/model.gguf")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(CheckpointError, match="neither a directory nor"):
        open_checkpoint(tmp_path / "a.txt")


def test_hub_names_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    def offline(name: str, **_: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nmore lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"could not be fetched from the hub.*offline") as caught:
        open_checkpoint("nobody/nothing")
    assert "\n" not in str(caught.value)
