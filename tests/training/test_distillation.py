"""A student's divergence from its teacher: the number, its gradient, and that slices change neither."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from octavo.base.errors import ConfigurationError, ModelError
from octavo.measure.divergence import compare
from octavo.models.decoder_config import DecoderConfig
from octavo.models.loading import load_language_model
from octavo.models.transformer import Transformer
from octavo.training import TrainingConfig, train
from octavo.training.precision import Distillation


def pair(tied: bool, generator: torch.Generator) -> tuple[Transformer, Transformer]:
    config = DecoderConfig.plain(61, 32, 2, 4, context=32, tied=tied)
    models = Transformer(config, generator), Transformer(config, generator)
    with torch.no_grad():
        for parameter in (each for model in models for each in model.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return models


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("at_once", [1, 61 * 7, 1 << 22])
def test_slices_give_the_whole_and_its_gradient(tied: bool, at_once: int, generator: torch.Generator) -> None:
    teacher, student = pair(tied, generator)
    tokens = torch.randint(61, (3, 16), generator=generator)
    loss, figures = Distillation(teacher, at_once)(student, {"tokens": tokens}, generator)
    loss.backward()
    found = [parameter.grad for parameter in student.parameters()]
    student.zero_grad(set_to_none=True)
    logits = student(tokens)
    expected, ours = F.log_softmax(teacher(tokens).detach(), -1), F.log_softmax(logits, -1)
    whole = (expected.exp() * (expected - ours)).sum(-1).mean()
    whole.backward()
    torch.testing.assert_close(loss, whole)
    assert figures["divergence"] is loss
    for one, other in zip(found, student.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-4, atol=1e-7)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_it_is_what_the_house_measures(tiny_llama: Path, generator: torch.Generator) -> None:
    teacher, _ = load_language_model(tiny_llama)
    student, _ = load_language_model(tiny_llama)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    tokens = torch.randint(384, (1, 40), generator=generator)
    loss, _ = Distillation(teacher, 5000)(student, {"tokens": tokens}, generator)
    with torch.no_grad():
        expected = compare(teacher(tokens).logits[0], student(tokens).logits[0], tokens[0, 1:])
    assert loss.item() == pytest.approx(float(expected.forward.mean()), rel=1e-4)


def test_a_student_learns(generator: torch.Generator) -> None:
    teacher, student = pair(True, generator)

    class Tokens:
        tokens = 64

        def batch(self, index: int) -> dict[str, torch.Tensor]:
            return {"tokens": torch.randint(61, (4, 16), generator=torch.Generator().manual_seed(index))}

    config = TrainingConfig(steps=40).changed({"optimizer.learning_rate": 0.02, "schedule.warmup": 4})
    done = train(student, Distillation(teacher), Tokens(), config)
    assert done.losses[-5:].mean() < 0.7 * done.losses[:5].mean()


def test_what_has_no_plain_head_is_refused(generator: torch.Generator) -> None:
    teacher, student = pair(True, generator)
    batch = {"tokens": torch.zeros(1, 4, dtype=torch.long)}
    with pytest.raises(ModelError, match="no plain head"):
        Distillation(teacher)(nn.Linear(3, 3), batch, generator)
    with pytest.raises(ConfigurationError, match="must be a module"):
        Distillation(teacher)(lambda tokens: student(tokens), batch, generator)
