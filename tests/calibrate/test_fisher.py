"""The separable Fisher against automatic differentiation, architecture by architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.nn import functional
from transformers.core_model_loading import revert_weight_conversion

from octavo.base.errors import ModelError
from octavo.calibrate.fisher import fisher
from octavo.calibrate.prediction import predicted_kl
from octavo.calibrate.streamed import StreamedWeight
from octavo.checkpoints import open_checkpoint
from octavo.formats.importance import Importance
from octavo.models import load_language_model
from octavo.models.streaming import streamed_model

VOCABULARY = 61
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2}
BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "decoder_sparse_step": 1}

ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("AutoModelForCausalLM", "LlamaConfig", SMALL),
    "llama, tied": ("AutoModelForCausalLM", "LlamaConfig", {**SMALL, "tie_word_embeddings": True}),
    "qwen3": ("AutoModelForCausalLM", "Qwen3Config", SMALL),
    "gemma3": ("AutoModelForCausalLM", "Gemma3TextConfig", SMALL),
    "gpt2": ("AutoModelForCausalLM", "GPT2Config", GPT2),
    "bert": ("AutoModelForMaskedLM", "BertConfig", BERT),
    "qwen3-moe": ("AutoModelForCausalLM", "Qwen3MoeConfig", {**SMALL, **EXPERTS}),
    "mixtral": ("AutoModelForCausalLM", "MixtralConfig", {**SMALL, "num_local_experts": 8}),
}


def make(name: str, seed: int = 0) -> Any:
    auto, kind, arguments = ARCHITECTURES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(transformers, auto).from_config(getattr(transformers, kind)(**arguments)).eval()


def tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))


def drawn_label(logits: torch.Tensor, seed: int) -> int:
    """The label that a generator of this seed draws first."""
    uniform = torch.rand(1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    cumulative = torch.softmax(logits, -1).double().cumsum(-1)
    return int((cumulative <= uniform * cumulative[-1]).sum())


def checkpoint_gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients by the names that a checkpoint gives the weights."""
    model.zero_grad()
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None and p.ndim in (2, 3)}
    return dict(revert_weight_conversion(model, gradients))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_square_of_a_single_tokens_gradient_is_exact(name: str) -> None:
    model = make(name)
    row = tokens(1, 1)[0]
    logits = model(row[None]).logits[0]
    label = drawn_label(logits[0].detach(), seed=3)
    expected = checkpoint_gradients(model, functional.cross_entropy(logits, torch.tensor([label])))
    found = fisher(model, row[None], generator=torch.Generator().manual_seed(3))
    assert found.total == 1
    embedding = model.get_input_embeddings().weight
    is_tied = model.get_output_embeddings().weight is embedding
    compared = 0
    for key, gradient in expected.items():
        if is_tied and gradient.shape == embedding.shape:
            continue
        exact = gradient.double().square()
        if key not in found.importance:
            assert exact.max() < 1e-12, key
            continue
        ours = found.importance[key].matrix().double()
        # Queries and keys of a single token have no gradient but what rounding leaves of it.
        assert torch.allclose(ours, exact, rtol=1e-3, atol=max(1e-12, 1e-6 * float(exact.max()))), key
        assert found.tokens[key] == 1
        compared += bool(exact.max() > 0)
    assert compared >= 8


@pytest.mark.parametrize("shard", ["1GB", "20KB"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_whose_weights_stay_on_disk_has_the_same_importance(name: str, shard: str, tmp_path: Path) -> None:
    make(name).save_pretrained(tmp_path, max_shard_size=shard)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 or shard == "20KB"
    loaded, _ = load_language_model(tmp_path)
    streamed = streamed_model(open_checkpoint(tmp_path))
    assert all(isinstance(p, StreamedWeight) == (p.ndim > 1) for p in streamed.parameters())
    sequences = tokens(3, 12)
    expected = fisher(loaded, sequences, unseen=0.2, generator=torch.Generator().manual_seed(2))
    found = fisher(streamed, sequences, unseen=0.2, generator=torch.Generator().manual_seed(2))
    assert found.tokens == expected.tokens
    assert found.importance.keys() == expected.importance.keys()
    for key, importance in expected.importance.items():
        assert torch.allclose(found.importance[key].row, importance.row, rtol=1e-5, atol=0), key
        assert torch.allclose(found.importance[key].column, importance.column, rtol=1e-5, atol=0), key


@pytest.mark.parametrize("labels", ["sampled", "empirical"])
def test_nothing_about_the_model_changes(labels: Any, generator: torch.Generator) -> None:
    model = make("qwen3-moe").train()
    model.lm_head.weight.requires_grad_(False)
    before = {name: (p.clone(), p.requires_grad) for name, p in model.named_parameters()}
    implementation = model.config._experts_implementation
    fisher(model, tokens(2, 12), labels, generator=generator)
    assert model.training
    assert model.config._experts_implementation == implementation
    for name, parameter in model.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name][0])
        assert parameter.requires_grad == before[name][1]


def test_factors_have_the_totals_of_the_tokens_squared_gradients(generator: torch.Generator) -> None:
    model = make("llama")
    sequences = tokens(3, 10)
    found = fisher(model, sequences, "empirical", generator=generator)
    # The last token of a sequence has no label.
    assert found.total == 3 * 9
    assert found.labels == "empirical"
    inputs: list[torch.Tensor] = []

    def keep_inputs(module: Any, arguments: Any) -> None:
        inputs.append(arguments[0][0, :-1].double().square())

    model.lm_head.register_forward_pre_hook(keep_inputs)
    exact = torch.zeros(VOCABULARY, 24, dtype=torch.float64)
    for sequence in sequences:
        with torch.no_grad():
            probability = model(sequence[None]).logits[0, :-1].softmax(-1).double()
        probability[torch.arange(9), sequence[1:]] -= 1
        exact += probability.square().T @ inputs[-1] / found.total
    ours = found.importance["lm_head.weight"].matrix().double()
    assert torch.allclose(ours.sum(0), exact.sum(0), rtol=1e-4)
    assert torch.allclose(ours.sum(1), exact.sum(1), rtol=1e-4)


@pytest.mark.parametrize("name", ["self_attn.k_proj", "mlp.gate_proj", "mlp.down_proj"])
def test_factors_inside_a_layer_have_the_totals_of_its_own_gradients(name: str, generator: torch.Generator) -> None:
    model = make("llama")
    sequences = tokens(3, 10)
    found = fisher(model, sequences, "empirical", generator=generator)
    layer = model.get_submodule(f"model.layers.0.{name}")
    kept: dict[str, torch.Tensor] = {}

    def keep(module: Any, arguments: Any, output: torch.Tensor) -> None:
        output.retain_grad()
        kept["x"], kept["y"] = arguments[0].detach()[0], output

    layer.register_forward_hook(keep)
    exact = torch.zeros_like(layer.weight, dtype=torch.float64)
    for sequence in sequences:
        logits = model(sequence[None]).logits[0, :-1]
        functional.cross_entropy(logits, sequence[1:], reduction="sum").backward()
        gradient = kept["y"].grad
        assert gradient is not None
        for g, x in zip(gradient[0].double(), kept["x"].double(), strict=True):
            exact += torch.outer(g, x).square() / found.total
    ours = found.importance[f"model.layers.0.{name}.weight"].matrix().double()
    assert torch.allclose(ours.sum(0), exact.sum(0), rtol=1e-3)
    assert torch.allclose(ours.sum(1), exact.sum(1), rtol=1e-3)


def test_a_tied_embedding_has_the_totals_of_both_uses(generator: torch.Generator) -> None:
    tied, untied = make("llama, tied"), make("llama")
    untied.load_state_dict(tied.state_dict() | {"lm_head.weight": tied.model.embed_tokens.weight})
    sequences = tokens(2, 20)
    both = fisher(tied, sequences, generator=torch.Generator().manual_seed(0)).importance
    each = fisher(untied, sequences, generator=torch.Generator().manual_seed(0)).importance
    assert "lm_head.weight" not in both
    parts = [each[name].matrix().double() for name in ("lm_head.weight", "model.embed_tokens.weight")]
    total, ours = sum(parts[1:], parts[0]), both["model.embed_tokens.weight"].matrix().double()
    assert torch.allclose(ours.sum(0), total.sum(0), rtol=1e-4)
    assert torch.allclose(ours.sum(1), total.sum(1), rtol=1e-4)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.allclose(both[name].row, each[name].row, rtol=1e-4)


def test_experts_without_tokens_are_absent_and_counted(generator: torch.Generator) -> None:
    model = make("qwen3-moe")
    found = fisher(model, tokens(1, 2), generator=generator)
    experts = {name: count for name, count in found.tokens.items() if ".experts." in name}
    assert len(experts) == 2 * 8 * 3
    assert sum(experts.values()) == 2 * 3 * 2 * 2
    assert found.unreached
    for name, count in experts.items():
        assert (name in found.importance) == (count > 0)
        assert (name in found.unreached) == (count == 0)
    for importance in found.importance.values():
        assert bool(importance.row.isfinite().all() and importance.column.isfinite().all())


def test_names_are_those_of_the_checkpoint(tmp_path: Path, generator: torch.Generator) -> None:
    for name in ("llama, tied", "gpt2", "mixtral"):
        model = make(name)
        model.save_pretrained(tmp_path / name)
        stored = load_file(tmp_path / name / "model.safetensors")
        matrices = {key: value.shape for key, value in stored.items() if value.ndim >= 2}
        found = fisher(model, tokens(4, 16), generator=generator)
        assert found.tokens.keys() == matrices.keys()
        for key, importance in found.importance.items():
            assert (*importance.row.shape, *importance.column.shape) == matrices[key]


def test_predicted_loss_is_the_measured_loss_of_small_noise() -> None:
    # True Fisher: labels are drawn, so that the prediction is of the KL divergence and not of this text's loss.
    model = make("llama").requires_grad_(False)
    sequences = tokens(24, 24)
    importance = fisher(model, sequences, generator=torch.Generator().manual_seed(0)).importance
    reference = torch.log_softmax(model(sequences).logits.double(), -1)
    generator = torch.Generator().manual_seed(5)
    ratios = []
    for name in ("layers.0.self_attn.v_proj", "layers.0.mlp.down_proj", "layers.1.mlp.up_proj"):
        weight = model.get_parameter(f"model.{name}.weight")
        original = weight.clone()
        predicted = measured = 0.0
        for _ in range(4):
            delta = 1e-3 * torch.randn(weight.shape, generator=generator)
            weight.copy_(original + delta)
            found = torch.log_softmax(model(sequences).logits.double(), -1)
            measured += float((reference.exp() * (reference - found)).sum(-1).mean())
            predicted += predicted_kl(importance[f"model.{name}.weight"], delta)
        weight.copy_(original)
        ratios.append(measured / predicted)
    assert all(0.5 < ratio < 2 for ratio in ratios), ratios


def test_predicted_loss_is_the_weighted_square() -> None:
    importance = Importance(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0, 1.0]))
    delta = torch.tensor([[1.0, 5.0, 2.0], [0.0, 1.0, 1.0]])
    assert predicted_kl(importance, delta) == pytest.approx(0.5 * (3 + 4 + 2))


def test_what_cannot_be_calibrated_is_said(generator: torch.Generator) -> None:
    model = make("llama")
    with pytest.raises(ModelError, match="nothing to calibrate on"):
        fisher(model, torch.empty(0, 8, dtype=torch.long), generator=generator)
    with pytest.raises(ModelError, match="predicts no tokens"):
        fisher(model.model, tokens(1, 4), generator=generator)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        fisher(model, tokens(1, 4), generator=generator)
