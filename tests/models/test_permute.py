"""The permuted reference predicts what its source predicts, with every weight elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from octavo.base.errors import ModelError, OutputError
from octavo.models import load_language_model
from octavo.models.permute import permute, write_permuted_reference

SMALL = {
    "vocab_size": 61,
    "hidden_size": 36,
    "intermediate_size": 53,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
FAMILY: dict[str, dict[str, Any]] = {
    "LlamaConfig": SMALL,
    "Qwen2Config": {key: value for key, value in SMALL.items() if key != "head_dim"},
    "Qwen3Config": {**SMALL, "attention_bias": True, "tie_word_embeddings": True},
    "Gemma3TextConfig": SMALL,
    "MistralConfig": SMALL,
}


def make(kind: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = getattr(transformers, kind)(**FAMILY[kind])
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        # Norm gains and biases start as ones and zeros, which any permutation would leave alone.
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.3 * torch.randn(parameter.shape)
    return model


@pytest.mark.parametrize("kind", FAMILY)
def test_logits_stay_and_weights_move(kind: str, generator: torch.Generator) -> None:
    model = make(kind)
    tokens = torch.randint(0, 61, (2, 20), generator=generator)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        before = model(tokens).logits
        permuted = permute(state, model.config.to_dict(), generator)
        model.load_state_dict(permuted)
        after = model(tokens).logits
    assert float((after - before).abs().max()) < 1e-3
    for name, tensor in permuted.items():
        if not name.endswith(("q_norm.weight", "k_norm.weight", "q_proj.bias", "k_proj.bias")):
            assert not torch.equal(tensor, state[name]), name
        assert torch.equal(tensor.flatten().sort().values, state[name].flatten().sort().values), name


def test_runs_along_the_input_axis_are_broken_up(generator: torch.Generator) -> None:
    model = make("LlamaConfig")
    permuted = permute(model.state_dict(), model.config.to_dict(), generator)
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 2:
            assert (permuted[name][:, 1:] - permuted[name][:, :-1]).abs().sum() > 0
            neighbors = {tuple(pair) for row in tensor[:4] for pair in row.unfold(0, 2, 1).tolist()}
            kept = sum(tuple(pair) in neighbors for row in permuted[name] for pair in row.unfold(0, 2, 1).tolist())
            assert kept < 0.3 * 4 * tensor.shape[1]


def test_the_permuted_reference_is_a_directory_like_any_other(tiny_llama: Path, tmp_path: Path) -> None:
    write_permuted_reference(tiny_llama, tmp_path / "one", torch.Generator().manual_seed(3))
    write_permuted_reference(tiny_llama, tmp_path / "two", torch.Generator().manual_seed(3))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
    model, tokenizer = load_language_model(tiny_llama)
    permuted, permuted_tokenizer = load_language_model(tmp_path / "one")
    assert tokenizer("a folio").input_ids == permuted_tokenizer("a folio").input_ids
    tokens = torch.tensor([tokenizer("The printer set the type.").input_ids])
    with torch.no_grad():
        assert torch.allclose(model(tokens).logits, permuted(tokens).logits, atol=1e-3)
    with pytest.raises(OutputError, match="exists already"):
        write_permuted_reference(tiny_llama, tmp_path / "one", torch.Generator().manual_seed(4))


def test_other_families_are_refused(generator: torch.Generator) -> None:
    with pytest.raises(ModelError, match="'gpt2' cannot be permuted"):
        permute({}, {"model_type": "gpt2"}, generator)
    model = make("LlamaConfig")
    with pytest.raises(ModelError, match=r"cannot permute 'model\.memory\.weight'"):
        permute({"model.memory.weight": torch.ones(3)}, model.config.to_dict(), generator)
