"""The trainable decoder computes what transformers and the decoder compute, and is written as they read it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from octavo.base.errors import CheckpointError, ModelError
from octavo.checkpoints import open_checkpoint
from octavo.layers.rotary import LinearScaling, Llama3Scaling, Rotary, YarnScaling
from octavo.models.decoder_config import DecoderConfig
from octavo.models.quiet import quiet
from octavo.models.saving import huggingface_config, save_huggingface
from octavo.models.transformer import Block, Transformer
from octavo.models.transformer_loading import load_transformer

PLAIN = DecoderConfig.plain(97, 32, 2, 4, shared_heads=2, context=64, tied=False)


def variants() -> dict[str, DecoderConfig]:
    """One config of each family, scaling and habit."""
    yarn = YarnScaling(4.0, 32.0, 1.0, 16, 1.1386294361119891)
    return {
        "llama": PLAIN,
        "tied": dataclasses.replace(PLAIN, tied=True),
        "biases": dataclasses.replace(PLAIN, attention_bias=True, output_bias=True, inner_bias=True),
        "qwen2": dataclasses.replace(PLAIN, attention_bias=True),
        "qwen3": dataclasses.replace(PLAIN, head_norms=True),
        "mistral": dataclasses.replace(PLAIN, windows=(8, 8)),
        "linear": dataclasses.replace(PLAIN, rotary=Rotary(8, 5e3, LinearScaling(2.0))),
        "llama3": dataclasses.replace(PLAIN, rotary=Rotary(8, 5e3, Llama3Scaling(8.0, 1.0, 4.0, 16))),
        "yarn": dataclasses.replace(PLAIN, rotary=Rotary(8, 1e4, yarn)),
    }


@pytest.mark.parametrize("name", variants())
def test_logits_are_those_of_transformers(name: str, tmp_path: Path, generator: torch.Generator) -> None:
    config = variants()[name]
    model = Transformer(config, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            # Far from the start, where all logits are near zero.
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    save_huggingface(model, None, tmp_path / "saved")
    tokens = torch.randint(config.vocabulary, (2, 24), generator=generator)
    with quiet():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", attn_implementation="eager")
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", variants())
def test_config_survives_the_trip_to_hugging_face(name: str) -> None:
    assert DecoderConfig.from_huggingface(huggingface_config(variants()[name])) == variants()[name]


def test_a_config_of_no_family_is_refused() -> None:
    with pytest.raises(ModelError, match="no qwen3 model"):
        huggingface_config(dataclasses.replace(PLAIN, head_norms=True, inner_bias=True))


def test_the_decoder_and_compress_read_what_is_written(
    tmp_path: Path, tiny_llama: Path, generator: torch.Generator
) -> None:
    from tokenizers import Tokenizer

    import octavo
    from octavo.hub.stored import open_stored
    from octavo.models.decoder_loading import load_decoder

    config = DecoderConfig.plain(tiny.VOCABULARY, 64, 2, 4, context=64)
    model = Transformer(config, generator)
    tokenizer = Tokenizer.from_file(str(tiny_llama / "tokenizer.json"))
    save_huggingface(model, tokenizer, tmp_path / "saved", end="<|end|>")
    decoder = load_decoder(open_stored(tmp_path / "saved"))
    tokens = torch.randint(config.vocabulary, (1, 12), generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(decoder.logits(tokens), model(tokens), rtol=1e-5, atol=1e-5)
    octavo.compress(str(tmp_path / "saved"), tmp_path / "small", bits=6.0, effort="fast", sensitivity="uniform")
    assert "".join(octavo.generate(tmp_path / "small", "A sheet", 4))


def test_start_is_normal_and_smaller_into_the_residual_stream(generator: torch.Generator) -> None:
    model = Transformer(DecoderConfig.plain(256, 128, 8, 4), generator)
    block = model.blocks[3]
    assert isinstance(block, Block)
    assert block.mlp.get_parameter("up_proj.weight").std().item() == pytest.approx(0.02, rel=0.02)
    assert block.mlp.get_parameter("down_proj.weight").std().item() == pytest.approx(0.02 / 4, rel=0.02)
    assert block.self_attn.get_parameter("o_proj.weight").std().item() == pytest.approx(0.02 / 4, rel=0.02)
    assert torch.equal(block.input_layernorm.get_parameter("weight"), torch.ones(128))


def test_start_depends_on_the_passed_generator_only() -> None:
    state = torch.random.get_rng_state()
    one, two = (Transformer(PLAIN, torch.Generator().manual_seed(3)).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_layers_come_from_the_constructors(generator: torch.Generator) -> None:
    class Doubled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    model = Transformer(PLAIN, generator, linear=Doubled, norm=lambda width, epsilon: nn.RMSNorm(width, eps=epsilon))
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(Doubled) == 2 * 7
    assert kinds.count(nn.RMSNorm) == 2 * 2 + 1
    assert model.state_dict().keys() == Transformer(PLAIN).state_dict().keys()


@pytest.mark.parametrize("sizes", [(97, 33, 2, 4), (97, 32, 0, 4), (0, 32, 2, 4)])
def test_sizes_that_make_no_sense_are_refused(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(ModelError):
        DecoderConfig.plain(*sizes)


def test_weights_come_back(tmp_path: Path, generator: torch.Generator) -> None:
    model = Transformer(PLAIN, generator)
    save_huggingface(model, None, tmp_path / "saved")
    again = load_transformer(open_checkpoint(tmp_path / "saved"))
    assert again.config == PLAIN
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"tie_word_embeddings": True}, r"the model has no tensor lm_head\.weight"),
        ({"num_hidden_layers": 3}, r"the checkpoint lacks the tensor model\.layers\.2"),
        ({"intermediate_size": 64}, r"gate_proj\.weight is \[96, 32\], and config\.json makes it \[64, 32\]"),
    ],
)
def test_weights_of_another_config_are_refused(
    change: dict[str, object], problem: str, tmp_path: Path, generator: torch.Generator
) -> None:
    save_huggingface(Transformer(PLAIN, generator), None, tmp_path / "saved")
    config = tmp_path / "saved" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(CheckpointError, match=problem):
        load_transformer(open_checkpoint(tmp_path / "saved"))
