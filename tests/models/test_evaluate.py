"""A model is compared with its reference, one sequence at a time."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from lossless import LOSSLESS

from octavo.base.errors import FormatError, ModelError
from octavo.calibrate.text import heldout_text
from octavo.formats import parse
from octavo.models import load_language_model
from octavo.models.cache_format import CacheFormat
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


def test_a_cache_that_loses_nothing_changes_nothing(tiny_llama: Path) -> None:
    model = load_language_model(tiny_llama)
    found = evaluate(model, model, TEXT, length=200, count=1, cache=LOSSLESS)
    assert found.kl < 1e-9
    assert found.agreement == 1


def test_a_model_is_judged_with_its_cache_quantized(tiny_llama: Path) -> None:
    model = load_language_model(tiny_llama)
    formats = [CacheFormat(parse(text), parse(text), group=16) for text in ("int@8 b16", "int@4 b16", "int@2 b16")]
    fine, medium, coarse = (
        evaluate(model, model, TEXT, length=100, count=2, cache=format, by="position") for format in formats
    )
    assert 0 < fine.kl < medium.kl < coarse.kl
    # Nothing is packed that the first two groups see.
    assert fine.positions[0].forward.mean == coarse.positions[0].forward.mean
    assert fine.positions[0].forward.mean < 1e-9
    assert [bin.begin for bin in fine.positions] == [0, 16, 32, 64]
    assert coarse.positions[1].forward.mean < 1e-9 < coarse.positions[2].forward.mean


def test_a_cache_is_refused_where_there_is_none(tiny_llama: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    model = load_language_model(tiny_llama)
    with pytest.raises(ModelError, match="layers are not compared through a quantized cache"):
        evaluate(model, model, TEXT, by="layer", cache="int@4")
    with pytest.raises(FormatError, match="fixed width"):
        evaluate(model, model, TEXT, cache="int@4 ans")
    bert = BertForMaskedLM(BertConfig(vocab_size=9, hidden_size=8, num_attention_heads=1, num_hidden_layers=1))
    with pytest.raises(ModelError, match="BertForMaskedLM keeps no keys and values"):
        evaluate(bert, bert, torch.zeros(1, 4, dtype=torch.long), cache="int@4")
