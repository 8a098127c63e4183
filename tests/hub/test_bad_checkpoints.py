"""A directory that is not what its config says is refused by name, before or right after it is read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packed_directory import make
from safetensors.torch import load_file, save_file

from octavo.base.errors import CheckpointError, FormatError, ModelError

NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return make("llama", tmp_path, "int@4 b32 absmax:fp16")[2]


def change(packed: Path, **entries: Any) -> None:
    """Replace entries of the file; None removes one."""
    state = load_file(packed / "model.safetensors")
    for name, value in entries.items():
        state.pop(f"{NAME}.{name}", None)
        if value is not None:
            state[f"{NAME}.{name}"] = value
    save_file(state, packed / "model.safetensors", {"format": "pt"})


def configure(packed: Path, **fields: Any) -> None:
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"]["tensors"][NAME] |= fields
    (packed / "config.json").write_text(json.dumps(config))


def load(packed: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(packed)


def part(packed: Path, name: str) -> torch.Tensor:
    return load_file(packed / "model.safetensors")[f"{NAME}.{name}"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: change(p, codes=part(p, "codes")[:-1].clone()), "codes"),
        (lambda p: change(p, codes=None), "absent"),
        (lambda p: change(p, codes=None, scales=None), "no part"),
        (lambda p: change(p, extra=torch.zeros(1)), "extra"),
        (lambda p: change(p, scales=part(p, "scales").float()), "float32"),
        (lambda p: change(p, scales=part(p, "scales") * float("nan")), "not finite"),
        (lambda p: configure(p, shape=[53, 37]), "codes"),
        (lambda p: configure(p, shape=[36, 53]), "scales"),
        (lambda p: configure(p, shape=[0, 3]), "impossible shape"),
        (lambda p: configure(p, shape=[-53, -36]), "impossible shape"),
    ],
)
def test_damage_is_named(packed: Path, damage: Any, message: str) -> None:
    damage(packed)
    with pytest.raises((CheckpointError, FormatError), match=message):
        load(packed)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: change(p, codes=part(p, "codes")[:, :-1].clone()), "codes"),
        (lambda p: change(p, codes=part(p, "codes")[:-1].clone()), "codes"),
        (lambda p: change(p, codes=part(p, "codes").flatten()), "codes"),
        (lambda p: change(p, codebook=part(p, "codebook")[1:].clone()), "codebook"),
        (lambda p: change(p, codebook=part(p, "codebook") * float("nan")), "not finite"),
        (lambda p: change(p, column_scale=part(p, "column_scale") * float("inf")), "not finite"),
        (lambda p: change(p, column_scales=part(p, "column_scales")[:, 1:].clone()), "column_scales"),
        (lambda p: change(p, column_scales=None), "absent"),
        (lambda p: configure(p, format="trellis(states=256)@4 channel rms:u8"), "codes"),
        (lambda p: configure(p, format="trellis(states=3000)@3 channel rms:u8"), "no trellis of 3000 states"),
        (lambda p: configure(p, format="trellis(states=256)@8 channel rms:u8"), "no codes of 8 bits"),
    ],
)
def test_damage_to_a_trellis_is_named(tmp_path: Path, damage: Any, message: str) -> None:
    packed = make("llama", tmp_path, "trellis(states=256)@3 channel rms:u8")[2]
    damage(packed)
    with pytest.raises((CheckpointError, FormatError), match=message):
        load(packed)


def test_an_unknown_format_is_named(packed: Path) -> None:
    configure(packed, format="cube@3")
    with pytest.raises(FormatError, match="cube"):
        load(packed)


def test_an_unknown_version_is_refused(packed: Path) -> None:
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"]["version"] = 2
    (packed / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="version 2"):
        load(packed)


def test_a_cut_file_is_refused(packed: Path) -> None:
    file = packed / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load(packed)


def test_octavo_does_not_quantize_while_loading(packed: Path) -> None:
    from octavo.hub.configuration import OctavoConfig

    with pytest.raises(ModelError, match="octavo compress"):
        transformers.AutoModelForCausalLM.from_pretrained(packed.parent / "dense", quantization_config=OctavoConfig())


def test_a_damaged_stream_names_its_tensor(tmp_path: Path) -> None:
    packed = make("llama", tmp_path, "grid@3.0 tensor rms:fp32 ans")[2]
    change(packed, coded=part(packed, "coded")[:40].clone())
    with pytest.raises(CheckpointError, match=NAME):
        load(packed)
