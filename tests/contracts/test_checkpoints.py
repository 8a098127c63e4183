"""Every kind of checkpoint answers the same questions in the same way; what the writer writes, others load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from octavo.base.errors import CheckpointError
from octavo.checkpoints import Checkpoint, CheckpointWriter, open_checkpoint

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "model.embed_tokens.weight": torch.randn(6, 4, generator=generator),
        "model.layers.0.weight": torch.randn(3, 5, generator=generator).to(torch.bfloat16),
        "model.norm.weight": torch.ones(4, dtype=torch.float16),
        "scalar": torch.tensor(3.0),
        "empty": torch.empty(0, 7),
    }


def single(path: Path) -> Path:
    path.mkdir()
    save_file(tensors(), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "tokenizer.json").write_text("{}")
    return path


def sharded(path: Path) -> Path:
    path.mkdir()
    weight_map = {}
    for i, (name, tensor) in enumerate(tensors().items()):
        shard = f"model-{i % 2 + 1:05d}-of-00002.safetensors"
        weight_map[name] = shard
        if i < 2:
            save_file({n: t for j, (n, t) in enumerate(tensors().items()) if j % 2 == i}, path / shard)
        del tensor
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "tokenizer.json").write_text("{}")
    return path


def written(path: Path) -> Path:
    (path.parent / "tokenizer.json").write_text("{}")
    with CheckpointWriter(path, "key", max_shard_bytes=64) as writer:
        for name, tensor in reversed(tensors().items()):
            writer.write(name, {"": tensor})
        writer.finish(CONFIG, sidecars=[path.parent / "tokenizer.json"])
    return path


@pytest.fixture(params=[single, sharded, written], ids=lambda make: make.__name__)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoint:
    make: Callable[[Path], Path] = request.param
    return open_checkpoint(make(tmp_path / "model"))


def test_names_are_sorted_and_whole(checkpoint: Checkpoint) -> None:
    assert checkpoint.names == tuple(sorted(tensors()))


def test_reading_gives_what_was_stored(checkpoint: Checkpoint) -> None:
    for name, tensor in tensors().items():
        read = checkpoint.read(name)
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)


def test_entries_describe_what_reading_gives(checkpoint: Checkpoint) -> None:
    for name in checkpoint.names:
        read, entry = checkpoint.read(name), checkpoint.entry(name)
        assert (entry.dtype, entry.shape, entry.nbytes) == (read.dtype, tuple(read.shape), read.nbytes)


def test_what_is_read_is_the_reader_s_own(checkpoint: Checkpoint) -> None:
    checkpoint.read("scalar").fill_(9)
    assert checkpoint.read("scalar").item() == 3


def test_unknown_names_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="no tensor 'absent'"):
        checkpoint.read("absent")


def test_config_and_sidecars(checkpoint: Checkpoint) -> None:
    assert checkpoint.config == CONFIG
    assert checkpoint.quantization is None
    assert [path.name for path in checkpoint.sidecars] == ["tokenizer.json"]


def test_the_fingerprint_depends_on_content_alone(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert open_checkpoint(checkpoint.source).fingerprint == checkpoint.fingerprint
    moved = checkpoint.source.rename(tmp_path / "moved")
    assert open_checkpoint(moved).fingerprint == checkpoint.fingerprint
    file = sorted(moved.glob("*.safetensors"))[-1]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert open_checkpoint(moved).fingerprint != checkpoint.fingerprint


def test_safetensors_reads_every_file(checkpoint: Checkpoint) -> None:
    found = {}
    for path in checkpoint.source.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no mapping)
    assert found.keys() == tensors().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())


@pytest.mark.parametrize("shards", [1, 3])
def test_transformers_loads_what_the_writer_writes(tmp_path: Path, shards: int) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, head_dim=8
    )
    config.architectures = ["LlamaForCausalLM"]
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    state = model.state_dict()
    size = sum(tensor.nbytes for tensor in state.values()) // shards + 1
    with CheckpointWriter(tmp_path / "out", "key", max_shard_bytes=size) as writer:
        for name, tensor in state.items():
            writer.write(name, {"": tensor})
        writer.finish(config.to_dict())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert (len(list((tmp_path / "out").glob("*.safetensors"))) > 1) == (shards > 1)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
