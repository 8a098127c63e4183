"""Calibrating models that read something besides the tokens they predict: encoder-decoder ones, run on named inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional

from octavo.base.errors import ModelError
from octavo.base.progress import SILENT
from octavo.calibrate.fisher import fisher
from octavo.calibrate.hessian import Moments, layerwise
from octavo.calibrate.running import lengths, logits, run, tokens_of
from octavo.checkpoints import open_checkpoint
from octavo.compress import compress
from octavo.compress.sensitivity import calibrate, measure
from octavo.models import load_language_model
from octavo.models.streaming import streamed_model

VOCABULARY, MELS, FRAMES, WIDTH = 61, 8, 24, 24
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1}
STACKS = {
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "max_source_positions": FRAMES // 2,
    "max_target_positions": 16,
    "init_std": 0.2,
}
T5 = {"d_model": WIDTH, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_heads": 4, "initializer_factor": 1.0}

ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "whisper": ("WhisperConfig", "AutoModelForSpeechSeq2Seq", {**STACKS, "num_mel_bins": MELS}),
    # No look-up feeds its encoder.
    "speech-to-text": (
        "Speech2TextConfig",
        "AutoModelForSpeechSeq2Seq",
        {**STACKS, "input_feat_per_channel": MELS, "conv_channels": 16, "suppress_tokens": None},
    ),
    "t5": ("T5Config", "AutoModelForSeq2SeqLM", T5),
}


def make(name: str) -> Any:
    kind, auto, settings = ARCHITECTURES[name]
    config = getattr(transformers, kind)(vocab_size=VOCABULARY, **TOKENS, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, auto).from_config(config).eval()


def samples(name: str, count: int = 3, length: int = 7) -> list[dict[str, Tensor]]:
    """Samples whose decoders read more tokens from one to the next."""
    draws = torch.Generator().manual_seed(1)
    found = []
    for extra in range(count):
        tokens = torch.randint(3, VOCABULARY, (1, length + extra), generator=draws)
        if name == "t5":
            heard = {"input_ids": torch.randint(3, VOCABULARY, (1, 11), generator=draws)}
        else:
            shape = (1, MELS, FRAMES) if name == "whisper" else (1, FRAMES, MELS)
            heard = {"input_features": torch.randn(shape, generator=draws)}
        found.append({**heard, "decoder_input_ids": tokens})
    return found


def linears(model: Any) -> dict[str, torch.nn.Linear]:
    head = model.get_output_embeddings()
    return {f"{n}.weight": m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_totals_by_row_and_by_column_are_those_of_the_gradients_at_each_position(name: str) -> None:
    model, given = make(name), samples(name)
    found = fisher(model, given, "empirical", generator=torch.Generator())
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def record(weight: str) -> Any:
        def hook(_: Any, inputs: tuple[Tensor], outputs: Tensor) -> None:
            outputs.register_hook(lambda gradient: seen.update({weight: (inputs[0].detach(), gradient)}))

        return hook

    modules = linears(model)
    for weight, module in modules.items():
        module.register_forward_hook(record(weight))
    rows = {weight: torch.zeros(module.out_features).double() for weight, module in modules.items()}
    columns = {weight: torch.zeros(module.in_features).double() for weight, module in modules.items()}
    for sample in given:
        labels = sample["decoder_input_ids"][0, 1:]
        functional.cross_entropy(model(**sample).logits[0, :-1], labels, reduction="sum").backward()
        for weight, (inputs, gradient) in seen.items():
            x, g = (tensor.reshape(-1, tensor.shape[-1]).double().square() for tensor in (inputs, gradient))
            rows[weight] += g.T @ x.sum(1)
            columns[weight] += x.T @ g.sum(1)
    total = sum(sample["decoder_input_ids"].shape[1] - 1 for sample in given)
    assert found.total == total
    assert set(modules) <= set(found.importance)
    for weight in modules:
        matrix = found.importance[weight].matrix().double() * total
        for axis, exact in ((1, rows[weight]), (0, columns[weight])):
            torch.testing.assert_close(matrix.sum(axis), exact, rtol=1e-3, atol=1e-6 * float(exact.max()))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_linear_layer_of_both_stacks_has_its_moments(name: str) -> None:
    model, given = make(name), samples(name)
    strengths = fisher(model, given, generator=torch.Generator().manual_seed(0)).strengths
    assert set(linears(model)) <= set(strengths)
    tokens = sum(len(tokens_of(sample)) for sample in given)
    positions = sum(sum(lengths(run(model, sample))) for sample in given) - tokens
    inputs: dict[str, list[Tensor]] = {}
    for weight, module in linears(model).items():
        module.register_forward_pre_hook(lambda _, args, w=weight: inputs.setdefault(w, []).append(args[0][0].detach()))
    found: dict[str, Moments] = {}
    layerwise(model, given, strengths, lambda weight, _, moments: found.update({weight: moments}))
    inputs.clear()
    with torch.no_grad():
        for sample in given:
            logits(model, sample)
    assert len([weight for weight in found if "decoder" in weight]) > len([w for w in found if "encoder." in w]) > 0
    for weight, moments in found.items():
        assert len(strengths[weight]) in (tokens, positions)
        x, s = torch.cat(inputs[weight]).double(), strengths[weight].double()
        expected = (x * s[:, None]).T @ x / s.sum()
        torch.testing.assert_close(moments.whole.double(), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["whisper", "t5"])
def test_weights_that_stay_on_disk_have_the_same_importance(name: str, tmp_path: Path) -> None:
    make(name).save_pretrained(tmp_path)
    loaded, _ = load_language_model(tmp_path)
    assert type(loaded) is type(make(name))
    streamed = streamed_model(open_checkpoint(tmp_path))
    expected, found = (
        fisher(model, samples(name), generator=torch.Generator().manual_seed(0)) for model in (loaded, streamed)
    )
    assert found.importance.keys() == expected.importance.keys()
    for key, importance in expected.importance.items():
        assert torch.allclose(found.importance[key].row, importance.row, rtol=1e-4, atol=0), key
        assert torch.allclose(found.importance[key].column, importance.column, rtol=1e-4, atol=0), key


@pytest.mark.parametrize("text", ["grid@7 channel rms:bf16 ans", "int@7 b16"])
def test_errors_are_fed_back_in_both_stacks(text: str, tmp_path: Path, generator: torch.Generator) -> None:
    model, given = make("whisper"), samples("whisper", count=4)
    model.save_pretrained(tmp_path / "model")
    known = measure(model, given, generator, SILENT)
    patterns = ["*_proj.weight", "*.fc?.weight"]
    out = tmp_path / "out"
    result = compress(tmp_path / "model", out, format=text, include=patterns, sensitivity=known)
    assert result.plan.fed_back == set(linears(model))
    packed, _ = load_language_model(out)
    with torch.no_grad():
        for sample in given:
            exact, ours = logits(model, sample), logits(packed, sample)
            assert 0 < (exact - ours).norm() < 0.3 * exact.norm()


def test_what_is_no_sample_of_a_model_is_refused(tmp_path: Path, generator: torch.Generator) -> None:
    model, (sample, *_) = make("whisper"), samples("whisper")
    with pytest.raises(ModelError, match="encoder-decoder"):
        logits(model, torch.arange(5))
    with pytest.raises(ModelError, match="no input input_values"):
        logits(model, {"input_values": sample["input_features"], "decoder_input_ids": torch.ones(1, 2).long()})
    with pytest.raises(ModelError, match="2 sequences"):
        logits(model, {name: tensor.repeat(2, *[1] * (tensor.ndim - 1)) for name, tensor in sample.items()})
    with pytest.raises(ModelError, match="no tokens"):
        fisher(model, [{"input_features": sample["input_features"]}], generator=generator)
    with pytest.raises(ModelError, match="nothing to calibrate on"):
        fisher(model, [], generator=generator)
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="tokenizer"):
        calibrate(tmp_path, None, 0, "cpu", SILENT)
