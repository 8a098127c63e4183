"""The decoder computes what transformers computes, of every family, at once or bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_decoders import FAMILIES, SMALL, make

from octavo.base.errors import CheckpointError, ModelError
from octavo.hub.stored import open_stored
from octavo.models.decoder import Decoder
from octavo.models.decoder_config import DecoderConfig
from octavo.models.decoder_loading import load_decoder
from octavo.models.decoder_names import from_huggingface, to_huggingface

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Decoder]:
    return make(request.param, tmp_path_factory.mktemp("family"))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make("llama 2", tmp_path)
    return tmp_path


def expected(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens).logits


def test_logits_are_those_of_transformers(pair: tuple[Any, Decoder], generator: torch.Generator) -> None:
    model, decoder = pair
    tokens = torch.randint(0, 61, (2, 50), generator=generator)
    assert (decoder.logits(tokens) - expected(model, tokens)).abs().max() < TOLERANCE


def test_a_prompt_may_come_in_chunks(pair: tuple[Any, Decoder], generator: torch.Generator) -> None:
    model, decoder = pair
    tokens = torch.randint(0, 61, (40,), generator=generator)
    cache = decoder.cache(2, 64)
    for chunk in tokens.split((17, 1, 22)):
        found = decoder.prefill(chunk, cache, 1)
    assert cache.lengths == [0, 40]
    assert (found - expected(model, tokens[None])[0, -1]).abs().max() < TOLERANCE


def test_a_mask_says_what_a_token_sees(pair: tuple[Any, Decoder], generator: torch.Generator) -> None:
    model, decoder = pair
    tokens = torch.randint(0, 61, (1, 6), generator=generator)
    # Of one token that sees itself alone, the position does not matter.
    found = decoder.logits(tokens, torch.eye(6, dtype=torch.bool)[None])
    alone = torch.cat([expected(model, token[None, None]) for token in tokens[0]], dim=1)
    assert (found - alone).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    "name", ["head.weight", "embedding.weight", "layers.12.attention.key_norm.weight", "norm.weight"]
)
def test_names_go_back_and_forth(name: str) -> None:
    assert from_huggingface(to_huggingface(name)) == name


def test_every_tensor_has_its_own_name(pair: tuple[Any, Decoder]) -> None:
    theirs = list(pair[0].state_dict())
    ours = [from_huggingface(name) for name in theirs]
    assert [to_huggingface(name) for name in ours if name is not None] == theirs


@pytest.mark.parametrize("name", ["model.layers.self_attn.q_proj.weight", "lm_head", "model.layers.1.lm_head.weight"])
def test_strange_names_have_no_place(name: str) -> None:
    assert from_huggingface(name) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "knows llama"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"num_attention_heads": 5}, "cannot share"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "longrope"),
        ({"rope_parameters": {"rope_type": "linear", "factor": -1}}, "factor"),
        ({"partial_rotary_factor": 0.5}, "turns all channels"),
    ],
    ids=str,
)
def test_what_it_does_not_compute_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        DecoderConfig.from_huggingface({**SMALL, "model_type": "llama", **change})


def test_old_configs_are_read_as_transformers_reads_them() -> None:
    scaling = {"type": "linear", "factor": 2.0}
    old = DecoderConfig.from_huggingface({**SMALL, "model_type": "llama", "rope_theta": 5e5, "rope_scaling": scaling})
    new = {**SMALL, "model_type": "llama", "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}
    assert old == DecoderConfig.from_huggingface(new)


def test_texts_that_do_not_fit_are_refused(pair: tuple[Any, Decoder]) -> None:
    decoder = pair[1]
    with pytest.raises(ModelError, match="do not suit"):
        decoder.logits(torch.zeros(1, 97, dtype=torch.long))
    with pytest.raises(ModelError, match="do not fit"):
        decoder.prefill(torch.zeros(9, dtype=torch.long), decoder.cache(1, 8))
    with pytest.raises(ModelError, match="outside 0 to 60"):
        decoder.logits(torch.tensor([[61]]))
    with pytest.raises(ModelError, match="1 sequences"):
        decoder.logits(torch.tensor([[1]]), cache=decoder.cache(2, 8))


def rewrite(folder: Path, change: Any) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def test_a_missing_tensor_is_not_made_up(saved: Path) -> None:
    rewrite(saved, lambda state: state.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(CheckpointError, match=r"lacks the tensor model.layers.1.mlp.up_proj"):
        load_decoder(open_stored(saved))


def test_a_tensor_of_another_shape_is_refused(saved: Path) -> None:
    rewrite(saved, lambda state: state.update({"model.norm.weight": torch.ones(4)}))
    with pytest.raises(CheckpointError, match=r"model.norm.weight is \[4\]"):
        load_decoder(open_stored(saved))


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.bias", "model.layers.0.mlp.experts.weight"])
def test_a_tensor_that_would_be_ignored_is_refused(saved: Path, name: str) -> None:
    rewrite(saved, lambda state: state.update({name: torch.ones(36)}))
    with pytest.raises(CheckpointError, match=name):
        load_decoder(open_stored(saved))


def test_what_is_not_finite_is_refused(saved: Path) -> None:
    rewrite(saved, lambda state: state["model.norm.weight"].fill_(float("nan")))
    with pytest.raises(CheckpointError, match="not finite"):
        load_decoder(open_stored(saved))


def test_frequencies_of_old_checkpoints_are_no_surprise(saved: Path) -> None:
    rewrite(saved, lambda state: state.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3)}))
    config = json.loads((saved / "config.json").read_text())
    assert load_decoder(open_stored(saved)).config.layers == config["num_hidden_layers"]
