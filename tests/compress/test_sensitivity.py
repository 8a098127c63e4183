"""What calibration tells a plan: predicted against measured loss, and matrices that the text never reached."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file

import octavo  # noqa: F401 (registers the quantizer)
from octavo.base.progress import SILENT, Silent
from octavo.calibrate.fisher import fisher
from octavo.calibrate.streamed import StreamingError
from octavo.compress import compress, plan, sensitivity
from octavo.compress.sensitivity import Sensitivity, calibrate, measure
from octavo.formats import Importance


def sequences(count: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, tiny.VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))


def log_probabilities(directory: Path, tokens: torch.Tensor) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        return torch.log_softmax(model(tokens).logits.double(), -1)


def test_predicted_divergence_is_the_measured_one_while_it_is_small(tiny_llama: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    tokens = sequences(16, 48)
    known = measure(model, tokens, torch.Generator().manual_seed(0), SILENT)
    reference = log_probabilities(tiny_llama, tokens)
    predicted, measured = [], []
    for format in ("int@8 b48", "int@7 b48", "int@6 b48", "grid(step=0.02) separable ans"):
        result = compress(tiny_llama, tmp_path / format[:6], format=format, sensitivity=known)
        found = log_probabilities(result.out, tokens)
        measured.append(float((reference.exp() * (reference - found)).sum(-1).mean()))
        predicted.append(result.plan.predicted_loss)
    ratio = np.array(measured) / np.array(predicted)
    assert (ratio > 0.5).all(), (predicted, measured)
    assert (ratio < 2).all(), (predicted, measured)
    assert np.corrcoef(np.log(predicted), np.log(measured))[0, 1] > 0.98


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random mixture of 16 experts, of which two tokens cannot reach all."""
    directory = tmp_path_factory.mktemp("experts") / "qwen3-moe"
    config = transformers.Qwen3MoeConfig(
        vocab_size=tiny.VOCABULARY,
        hidden_size=48,
        intermediate_size=64,
        moe_intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        num_experts=16,
        num_experts_per_tok=2,
        decoder_sparse_step=1,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.Qwen3MoeForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("choice", [{"bits": 6.0}, {"format": "int@4 b16 search:bf16"}])
def test_experts_that_no_token_reached_get_the_importance_of_their_kind(
    experts: Path, tmp_path: Path, choice: dict
) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(experts, dtype=torch.float32)
    known = measure(model, sequences(1, 2), torch.Generator().manual_seed(0), SILENT)
    assert known.unreached
    result = compress(experts, tmp_path / "out", sensitivity=known, **choice)
    assert result.coverage is not None
    assert f"{len(known.unreached)} tensors were reached by none of the 2 calibration tokens" in result.coverage
    assert all(np.isfinite(entry.predicted_loss) and entry.predicted_loss >= 0 for entry in result.plan.entries)
    for name, part in load_file(tmp_path / "out" / "model.safetensors").items():
        assert bool(part.float().isfinite().all()), name
    found = log_probabilities(tmp_path / "out", sequences(1, 32))
    assert bool(found.isfinite().all())


def test_a_text_that_reaches_everything_leaves_nothing_to_say(tiny_llama: Path) -> None:
    assert Sensitivity({}).coverage is None
    assert Sensitivity({}, ("a.weight",), 7).coverage is not None


def test_the_prior_is_the_geometric_mean_of_its_kind() -> None:
    def flat(level: float) -> Importance:
        return Importance(torch.full((3,), level), torch.ones(4))

    known = Sensitivity({"layer.0.up": flat(1.0), "layer.1.up": flat(16.0), "layer.0.down": flat(1e6)})
    assert known.of("layer.7.up", (3, 4), 1.0).mean == pytest.approx(4)
    assert known.of("layer.1.up", (3, 4), 1.0).mean == pytest.approx(16)
    assert known.of("head", (3, 4), 1.0).mean == pytest.approx((16e6) ** (1 / 3), rel=1e-5)
    assert known.of("layer.7.up", (2, 5, 4), 1.0).row.shape == (10,)


def test_tokens_that_the_text_lacks_keep_importance(tiny_llama: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    few = 1 + sequences(4, 32) % 16  # 16 of the vocabulary, and not the padding, whose zeros blow gradients up
    known = measure(model, few, torch.Generator().manual_seed(0), SILENT)
    row = known.importance["model.embed_tokens.weight"].row
    seen = torch.zeros(len(row), dtype=torch.bool)
    seen[few.unique()] = True
    # A token that occurred eight times is worth some forty that did not occur.
    assert 10 < float(row[seen].median() / row[~seen].median()) < 200
    assert float(row[~seen].min()) > 0.1 * float(row[~seen].median())
    others = sequences(8, 32, seed=1)
    reference = log_probabilities(tiny_llama, others)

    def divergence(sensitivity: Sensitivity, name: str) -> float:
        found = log_probabilities(compress(tiny_llama, tmp_path / name, bits=5, sensitivity=sensitivity).out, others)
        return float((reference.exp() * (reference - found)).sum(-1).mean())

    blind = fisher(model, few, generator=torch.Generator().manual_seed(0)).importance
    assert divergence(known, "known") < 0.5 * divergence(Sensitivity(blind), "blind")


def test_positions_that_no_sequence_reached_count_like_others() -> None:
    config = transformers.GPT2Config(vocab_size=tiny.VOCABULARY, n_embd=24, n_layer=1, n_head=4, n_positions=64)
    model = transformers.GPT2LMHeadModel(config).eval()
    known = measure(model, sequences(4, 16), torch.Generator().manual_seed(0), SILENT)
    row = known.importance["transformer.wpe.weight"].row
    assert torch.allclose(row[16:], row[:16].median().expand(48))


def test_without_calibration_relative_errors_count_alike() -> None:
    assert Sensitivity({}).of("any", (3, 4), 0.01).mean == pytest.approx(100)
    assert np.isfinite(Sensitivity({}).of("any", (3, 4), 0.0).mean)


def test_uniform_sensitivity_needs_neither_tokenizer_nor_text(experts: Path) -> None:
    made = plan(experts, bits=6, sensitivity="uniform")
    assert made.sensitivity == "uniform"
    losses = [entry.predicted_loss / np.prod(entry.shape) for entry in made.entries]
    # The same relative error everywhere, at one price.
    assert max(losses) < 2 * min(losses)


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def streamed_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short calibration, and streaming for models of any size."""
    monkeypatch.setattr(sensitivity, "LENGTH", 48)
    monkeypatch.setattr(sensitivity, "COUNT", 2)
    monkeypatch.setattr(sensitivity, "STREAMED_FROM", 0)


@pytest.mark.usefixtures("streamed_from_nothing")
def test_calibration_is_the_same_with_the_weights_on_disk(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    with monkeypatch.context() as patch:
        patch.setattr(sensitivity, "load_language_model", None)
        streamed = calibrate(tiny_llama, None, 0, "cpu", told)
    assert not told.lines
    monkeypatch.setattr(sensitivity, "STREAMED_FROM", 1 << 40)
    loaded = calibrate(tiny_llama, None, 0, "cpu", told)
    assert streamed.tokens == loaded.tokens == 96
    assert streamed.importance.keys() == loaded.importance.keys()
    for name, value in loaded.importance.items():
        assert torch.allclose(streamed.importance[name].row, value.row, rtol=1e-5, atol=0)
        assert torch.allclose(streamed.importance[name].column, value.column, rtol=1e-5, atol=0)


@pytest.mark.usefixtures("streamed_from_nothing")
def test_a_model_that_cannot_run_from_disk_is_loaded_and_that_is_said(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path) -> None:
        raise StreamingError("it says no")

    monkeypatch.setattr(sensitivity, "load_streamed_model", refuse)
    told = Told()
    assert calibrate(tiny_llama, None, 0, "cpu", told).importance
    assert told.lines == ["the whole model is loaded in float32, for it says no"]


@pytest.mark.usefixtures("streamed_from_nothing")
@pytest.mark.parametrize("loader", ["load_streamed_model", "load_language_model"])
def test_the_model_is_gone_when_it_is_calibrated(
    loader: str, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, models = getattr(sensitivity, loader), []

    def remembered(source: Path) -> tuple[torch.nn.Module, object]:
        model, tokenizer = load(source)
        models.append(weakref.ref(model))
        return model, tokenizer

    monkeypatch.setattr(sensitivity, loader, remembered)
    monkeypatch.setattr(sensitivity, "STREAMED_FROM", 0 if loader == "load_streamed_model" else 1 << 40)
    assert calibrate(tiny_llama, None, 0, "cpu", SILENT).importance
    assert [reference() for reference in models] == [None]
