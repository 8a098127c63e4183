"""Folding: what must not change a model's logits does not, what must does, and the stream is where it should be."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from octavo.base.errors import ModelError
from octavo.models import load_language_model
from octavo.transforms.affine import Affine, affine, orthogonal
from octavo.transforms.decoder import Decoder, check_names, decoder_of, part_of
from octavo.transforms.fold import Maps, fold, folded_config
from octavo.transforms.hadamard import hadamard_matrix
from octavo.transforms.online import Online
from octavo.transforms.rotation import random_orthogonal
from octavo.transforms.serving import Activations, serve
from octavo.transforms.student import Rounding, Student


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Any:
    """The tiny model in float64, its gains no longer ones."""
    model, _ = load_language_model(tiny_llama)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.double().requires_grad_(False)


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(0, 384, (2, 24), generator=torch.Generator().manual_seed(1))


def near(size: int, seed: int, *heads: int, shifted: bool = False) -> Affine:
    """An invertible map that is not orthogonal."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.eye(size).double() + 0.15 * torch.randn(*heads, size, size, generator=generator).double()
    shift = torch.randn(*heads, size, generator=generator).double() if shifted else None
    return affine(matrix, shift)


def same(found: Tensor, expected: Tensor) -> bool:
    """Equal but for rounding: in a float64 model, transformers still computes norms in float32."""
    return bool((found - expected).abs().max() < 1e-5 * expected.abs().max())


def heads(seed: int) -> tuple[Affine, Affine]:
    """T2 for the tiny model: two layers, two key-value heads of twelve channels."""
    return near(12, seed, 2, shifted=True), near(12, seed + 1, 2, shifted=True)


def rebuilt(model: Any, maps: Maps) -> tuple[Any, Decoder]:
    """The model with the maps folded in, through its state dict."""
    decoder = decoder_of(model.config.to_dict())
    state = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    made = fold(state, maps, decoder)
    config = copy.deepcopy(model.config)
    config.update({**folded_config(config.to_dict(), maps, decoder)})
    new = type(model)(config).double()
    new.load_state_dict(made)
    if maps.inner is not None:
        serve(new, Activations(transforms={"*mlp.down_proj": maps.inner}))
    return new.requires_grad_(False), decoder


@pytest.mark.parametrize(
    "maps",
    [
        Maps(),
        Maps(stream=orthogonal(hadamard_matrix(48))),
        Maps(stream=orthogonal(random_orthogonal(48, torch.Generator().manual_seed(2)))),
        Maps(values=heads(3)),
        Maps(inner=Online()),
        Maps(inner=Online(32)),
        Maps(orthogonal(hadamard_matrix(48, 32)), heads(4), Online()),
    ],
    ids=["gains", "hadamard", "rotation", "values", "online", "online blocks", "all"],
)
def test_logits_do_not_change(model: Any, tokens: Tensor, maps: Maps) -> None:
    folded, _ = rebuilt(model, maps)
    assert same(folded(tokens).logits, model(tokens).logits)
    assert not folded.config.tie_word_embeddings
    assert not torch.equal(folded.lm_head.weight, folded.model.embed_tokens.weight)


def test_a_map_of_the_stream_that_is_no_rotation_changes_them(model: Any, tokens: Tensor) -> None:
    folded, _ = rebuilt(model, Maps(stream=near(48, 6)))
    assert (folded(tokens).logits - model(tokens).logits).abs().max() > 0.1


def test_a_shift_of_the_stream_changes_them(model: Any, tokens: Tensor) -> None:
    decoder = decoder_of(model.config.to_dict())
    shift = 0.1 * torch.ones(48).double()
    shifted = Maps(stream=Affine(*(orthogonal(hadamard_matrix(48)).matrix,) * 2, shift))
    student = Student(model, decoder, Rounding())
    assert (student(tokens, shifted) - model(tokens).logits).abs().max() > 0.01
    with pytest.raises(ModelError, match="head has no bias"):
        folded_config(model.config.to_dict(), shifted, decoder)


def test_without_norms_the_stream_is_the_map_of_the_stream(model: Any, tokens: Tensor) -> None:
    """Any T1, shift and all, and the logits come out unchanged."""
    plain = copy.deepcopy(model)
    maps = Maps(near(48, 8, shifted=True), heads(9), Online())
    decoder = decoder_of(model.config.to_dict())
    student = Student(_normless(plain), decoder, Rounding())
    streams: list[list[Tensor]] = [[], []]
    for found, layers in zip(streams, (plain.model.layers, student.model.model.layers), strict=True):
        for layer in layers:
            layer.register_forward_hook(lambda _, __, out, into=found: into.append(_first(out)))
    expected, logits = plain(tokens).logits, student(tokens, maps)
    stream = maps.stream
    assert stream is not None
    assert len(streams[0]) == len(streams[1]) == 2
    for original, mapped in zip(*streams, strict=True):
        assert same(mapped, stream(original))
    assert same(logits, expected)


def _first(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple) else out


class _Scale(nn.Module):
    """What is left of a norm that does not normalize."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        # Smaller, lest attention saturate.
        self.weight = nn.Parameter(0.1 * weight, requires_grad=False)

    def forward(self, values: Tensor) -> Tensor:
        return values * self.weight


def _normless(model: Any) -> Any:
    for layer in model.model.layers:
        layer.input_layernorm = _Scale(layer.input_layernorm.weight)
        layer.post_attention_layernorm = _Scale(layer.post_attention_layernorm.weight)
    model.model.norm = _Scale(model.model.norm.weight)
    return model


def test_the_student_is_the_folded_model(model: Any, tokens: Tensor) -> None:
    maps = Maps(near(48, 10), heads(11), Online())
    folded, decoder = rebuilt(model, maps)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    student = Student(model, decoder, Rounding())
    assert same(student(tokens, maps), folded(tokens).logits)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_biases_appear_where_shifts_need_them(model: Any) -> None:
    folded, _ = rebuilt(model, Maps(values=heads(12)))
    biases = {name for name, _ in folded.named_parameters() if name.endswith("bias")}
    assert biases == {f"model.layers.{i}.self_attn.{p}_proj.bias" for i in range(2) for p in "qkvo"}
    attention = folded.model.layers[1].self_attn
    assert not attention.q_proj.bias.any()
    assert not attention.k_proj.bias.any()
    assert attention.v_proj.bias.all()
    assert attention.o_proj.bias.all()


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Mistral", "SmolLM3"])
def test_relatives_of_llama_fold_too(kind: str, tokens: Tensor) -> None:
    import transformers

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, f"{kind}Config")(
        **sizes, vocab_size=384, num_key_value_heads=2, head_dim=8, initializer_range=0.3, pad_token_id=0
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).double().requires_grad_(False)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    if not config.tie_word_embeddings:
        config.tie_word_embeddings = False
    decoder = decoder_of(config.to_dict())
    values = tuple(near(8, seed, 2) for seed in range(2))
    maps = Maps(orthogonal(hadamard_matrix(32)), values, Online())
    state = fold(model.state_dict(), maps, decoder)
    folded = copy.deepcopy(model)
    folded.load_state_dict(state)
    serve(folded, Activations(transforms={"*mlp.down_proj": Online()}))
    assert same(folded(tokens).logits, model(tokens).logits)
    if kind in ("Qwen2", "Mistral", "SmolLM3"):
        with pytest.raises(ModelError, match="no bias after its output"):
            folded_config(config.to_dict(), Maps(values=(near(8, 1, 2, shifted=True),) * 2), decoder)


def test_other_architectures_are_refused() -> None:
    for kind in ("gpt2", "gemma3_text", "olmo2", "qwen3_moe", None):
        with pytest.raises(ModelError, match="choose a model of type llama"):
            decoder_of({"model_type": kind})
    for name in ("model.layers.0.mlp.experts.3.up_proj.weight", "transformer.wte.weight", "model.layers.0.self_attn.x"):
        with pytest.raises(ModelError, match="no place"):
            part_of(name)


def test_missing_tensors_are_named(model: Any) -> None:
    decoder = decoder_of(model.config.to_dict())
    names = [name for name in model.state_dict() if name != "model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj"):
        check_names(names, decoder)
