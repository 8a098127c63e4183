"""Inputs of linear layers are treated as config.json says, in dense and packed models, and stay so when saved again."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packed_directory import make, quantization
from torch import Tensor, nn

from octavo.base.errors import CheckpointError, FormatError, OctavoError
from octavo.hub.export import export
from octavo.hub.stored import open_stored
from octavo.models import load_language_model
from octavo.transforms.activations import activation_format, fake_quantize
from octavo.transforms.online import Online
from octavo.transforms.serving import BLOCKS, Activations, serve, unrounded

ENTRY = {"format": "mxfp4", "scale": "floor", "modules": list(BLOCKS), "transforms": {"*mlp.down_proj": "hadamard"}}
TOKENS = torch.arange(2 * 9).view(2, 9)


def configure(folder: Path, activations: Any, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= {"activations": activations, **entries}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    folder = make("llama", tmp_path, "mxfp4")[2]
    configure(folder, ENTRY)
    return folder


def reference(model: nn.Module, tokens: Tensor) -> Tensor:
    """The logits of a model whose linear layers are rewritten to transform and round by hand."""
    model = copy.deepcopy(model)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and name != "lm_head":

            def forward(values: Tensor, layer: nn.Linear = layer, down: bool = name.endswith("down_proj")) -> Tensor:
                values = Online()(values) if down else values
                return nn.functional.linear(fake_quantize(values, activation_format("mxfp4")), layer.weight)

            layer.forward = forward
    with torch.no_grad():
        return model(tokens).logits


def test_a_loaded_checkpoint_rounds_its_inputs(packed: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(packed)
    configure(packed, {"format": None, "transforms": {}})
    plain = transformers.AutoModelForCausalLM.from_pretrained(packed)
    with torch.no_grad():
        found = model(TOKENS).logits
        assert torch.equal(found, reference(plain, TOKENS))
        assert not torch.allclose(found, plain(TOKENS).logits, atol=1e-3)
        assert torch.equal(copy.deepcopy(model)(TOKENS).logits, found)
    model.save_pretrained(tmp_path / "again")
    assert quantization(tmp_path / "again")["activations"] == ENTRY
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    with torch.no_grad():
        assert torch.equal(again(TOKENS).logits, found)


def test_the_base_model_rounds_them_too(packed: Path) -> None:
    whole, base = (auto.from_pretrained(packed) for auto in (transformers.AutoModelForCausalLM, transformers.AutoModel))
    with torch.no_grad():
        assert torch.equal(base(TOKENS).last_hidden_state, whole.model(TOKENS).last_hidden_state)


def test_half_precision_is_kept(packed: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(packed, dtype=torch.bfloat16)
    with torch.no_grad():
        found = model(TOKENS).logits
    assert found.dtype == torch.bfloat16
    assert found.isfinite().all()


def test_rounding_can_be_put_off(packed: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(packed)
    configure(packed, {**ENTRY, "format": None})
    transformed = transformers.AutoModelForCausalLM.from_pretrained(packed)
    with torch.no_grad():
        rounded = model(TOKENS).logits
        with unrounded(model):
            assert torch.equal(model(TOKENS).logits, transformed(TOKENS).logits)
        assert torch.equal(model(TOKENS).logits, rounded)


@pytest.mark.parametrize(
    ("activations", "message"),
    [
        ({**ENTRY, "format": "mxfp5"}, "mxfp5"),
        ({**ENTRY, "format": "nvfp4"}, "nvfp4"),
        ({**ENTRY, "format": 4}, "4"),
        ({**ENTRY, "scale": "round"}, "round"),
        ({**ENTRY, "transforms": {"*mlp.down_proj": "fourier"}}, "fourier"),
        ({**ENTRY, "transforms": ["hadamard"]}, "another kind"),
        ({**ENTRY, "modules": ["*c_attn"]}, "c_attn"),
        ({**ENTRY, "zero_point": 3}, "zero_point"),
        ("mxfp4", "no object"),
    ],
)
def test_what_a_reader_does_not_know_is_refused(activations: Any, message: str, packed: Path) -> None:
    configure(packed, activations)
    with pytest.raises((CheckpointError, FormatError), match=message):
        transformers.AutoModelForCausalLM.from_pretrained(packed)


def test_unknown_entries_are_refused(packed: Path) -> None:
    configure(packed, ENTRY, rotations={})
    with pytest.raises(CheckpointError, match="rotations"):
        transformers.AutoModelForCausalLM.from_pretrained(packed)
    with pytest.raises(CheckpointError, match="rotations"):
        open_stored(packed)


def test_export_keeps_what_inputs_need_or_refuses(packed: Path, tmp_path: Path) -> None:
    out = export(packed, tmp_path / "exported")
    assert quantization(out) == {"quant_method": "octavo", "version": 1, "tensors": {}, "activations": ENTRY}
    model, dense = (load_language_model(folder, torch.bfloat16)[0] for folder in (packed, out))
    with torch.no_grad():
        assert torch.equal(model(TOKENS).logits, dense(TOKENS).logits)
    pytest.importorskip("gguf")
    with pytest.raises(OctavoError, match="GGUF has no place"):
        export(packed, tmp_path / "model.gguf", "gguf")


def test_entries_are_read_back() -> None:
    for activations in (
        Activations(),
        Activations("mxint8", "ceil", ("*q_proj",), {"*down_proj": Online(32), "*o_proj": Online()}),
    ):
        assert Activations.from_json(json.loads(json.dumps(activations.to_json()))) == activations


def test_a_layer_s_other_arguments_pass() -> None:
    class Layer(nn.Linear):
        def forward(self, input: Tensor, scale: float) -> Tensor:
            return super().forward(input) * scale

    model = nn.ModuleDict({"proj": Layer(32, 2, bias=False)})
    serve(model, Activations("mxfp8-e4m3", modules=("proj",)))
    values = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.linear(fake_quantize(values, activation_format("mxfp8-e4m3")), model["proj"].weight) * 2
    assert torch.equal(model["proj"](values, 2.0), expected)
