"""A model is compared with its reference, one sequence at a time."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch

from octavo.base.errors import ModelError
from octavo.calibrate.text import heldout_text
from octavo.models import load_language_model
from octavo.models.evaluate import evaluate, evaluate_each

TEXT = "The binder folded, gathered and sewed the sheets of the octavo. " * 60


@pytest.fixture
def noisy(tiny_llama: Path, generator: torch.Generator):
    model, _ = load_language_model(tiny_llama)
    for parameter in model.parameters():
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator)
    return model


def test_a_model_is_no_distance_from_itself(tiny_llama: Path) -> None:
    found = evaluate(str(tiny_llama), tiny_llama, TEXT, length=32, count=3)
    assert found.kl == found.kl_backward == found.excess_loss == 0
    assert found.agreement == 1
    assert found.perplexity == found.reference_perplexity
    assert (found.sequences, found.length) == (3, 32)
    assert found.positions == ()
    assert found.layers == ()


def test_figures_are_of_the_sequences_given(tiny_llama: Path, noisy) -> None:
    reference, tokenizer = load_language_model(tiny_llama)
    tokens = torch.tensor(tokenizer(TEXT).input_ids)[:96].view(3, 32)
    found = evaluate(noisy, reference, tokens)
    with torch.no_grad():
        p, q = (torch.log_softmax(m(tokens).logits.double(), -1) for m in (reference, noisy))
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
    assert found.kl_backward == pytest.approx(float((q.exp() * (q - p)).sum(-1).mean()), rel=1e-4)
    loss = -q[:, :-1].gather(2, tokens[:, 1:, None]).mean()
    assert found.perplexity == pytest.approx(math.exp(float(loss)), rel=1e-4)
    assert 0 < found.kl_error < found.kl
    assert 0 < found.agreement < 1


def test_the_loss_is_split_by_position_or_by_layer(tiny_llama: Path, noisy) -> None:
    by_position = evaluate(noisy, tiny_llama, TEXT, length=40, count=2, by="position")
    assert [(b.begin, b.end) for b in by_position.positions] == [(0, 16), (16, 32), (32, 40)]
    by_layer = evaluate(noisy, tiny_llama, TEXT, length=40, count=2, by="layer")
    assert [layer.name for layer in by_layer.layers] == ["model.layers.0", "model.layers.1"]
    assert all(10 < layer.sqnr_db.mean < 60 for layer in by_layer.layers)
    assert by_layer.kl == by_position.kl


@pytest.mark.parametrize("by", [None, "layer"])
def test_several_models_share_one_run_of_the_reference(tiny_llama: Path, noisy, by) -> None:
    reference = load_language_model(tiny_llama)
    noisier = copy.deepcopy(noisy)
    for parameter in noisier.parameters():
        parameter.data *= 1.01
    options = {"length": 32, "count": 2, "by": by}
    alone = [evaluate(model, reference, TEXT, **options) for model in (noisy, noisier)]
    runs = []
    reference[0].register_forward_hook(lambda *_: runs.append(1))
    assert evaluate_each([noisy, noisier], reference, TEXT, **options) == alone
    assert len(runs) == 2
    assert alone[0].kl != alone[1].kl


def test_it_is_json(tiny_llama: Path, noisy) -> None:
    found = evaluate(noisy, tiny_llama, TEXT, length=32, count=1, by="layer").to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["kl_error"] is None
    assert found["layers"][0]["name"] == "model.layers.0"


def test_the_default_text_is_cut_to_the_models_context(tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text(heldout_text()[:4000], encoding="utf-8")
    assert evaluate(tiny_llama, tiny_llama, path, count=1).length == 256


def test_what_cannot_be_evaluated_is_said(tiny_llama: Path, noisy) -> None:
    with pytest.raises(ModelError, match="one sequence needs 64"):
        evaluate(noisy, tiny_llama, "short", length=64)
    with pytest.raises(ModelError, match="neither model came with a tokenizer"):
        evaluate(noisy, noisy, TEXT)
    noisy.config.vocab_size = 99
    with pytest.raises(ModelError, match="the model has 99 tokens and the reference 384"):
        evaluate(noisy, tiny_llama, TEXT)
