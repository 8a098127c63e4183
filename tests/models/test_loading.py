"""Models are loaded quietly and whole, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from octavo.base.errors import CheckpointError, ModelError
from octavo.models import context_length, load_language_model


@pytest.fixture
def copy(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "copy"))


def test_a_directory_loads_without_a_word(tiny_llama: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = load_language_model(tiny_llama, dtype=torch.bfloat16)
    assert capfd.readouterr() == ("", "")
    assert model.dtype == torch.bfloat16
    assert not model.training
    assert context_length(model) == 256
    assert tokenizer.decode(tokenizer("octavo").input_ids) == "octavo"


def test_transformers_talks_again_afterwards(tiny_llama: Path) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_language_model(tiny_llama)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_a_model_without_a_tokenizer_has_none(copy: Path) -> None:
    for path in copy.glob("tokenizer*"):
        path.unlink()
    assert load_language_model(copy)[1] is None


def test_a_missing_tensor_is_not_made_up(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 .*layers\.1\.mlp\.up_proj"):
        load_language_model(copy)


def test_an_unknown_architecture_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "parchment"}))
    with pytest.raises(ModelError, match="parchment"):
        load_language_model(copy)


def test_a_pickle_is_never_loaded(copy: Path) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises((CheckpointError, ModelError)):
        load_language_model(copy)


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no file or directory"):
        load_language_model(tmp_path / "absent")


@pytest.mark.model
def test_the_embedded_model_loads_and_saves_like_any_other(tmp_path: Path) -> None:
    model, tokenizer = load_language_model("smollm2-135m", dtype=torch.bfloat16)
    tokens = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert tokenizer.decode(model(tokens).logits[0, -1].argmax()) == " Paris"
    assert getattr(model.config, "quantization_config", None) is None
    model.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").stat().st_size < 280e6
