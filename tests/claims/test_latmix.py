"""The checkable statements of "LATMiX" (arXiv 2602.17681), on a language model of 400,000 weights with loud channels.

The model is trained on a text in which a token depends on the one before the last. Four channels of its stream, one in
each block of 32, are large in every token and say nothing: they cost the other channels of their blocks their digits.
(What the maps do to vectors alone is in tests/transforms.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from octavo.transforms.activations import activation_format
from octavo.transforms.affine import orthogonal
from octavo.transforms.decoder import Decoder, decoder_of
from octavo.transforms.fold import Maps
from octavo.transforms.hadamard import hadamard_matrix
from octavo.transforms.learning import Learning, learn, starting_maps
from octavo.transforms.online import Online
from octavo.transforms.rotation import random_hadamard
from octavo.transforms.student import Rounding, Student

VOCABULARY, HIDDEN, LOUDNESS = 64, 128, 20.0
LOUD = [8, 40, 72, 104]
MXFP4 = activation_format("mxfp4")
W4A4 = Rounding(MXFP4, MXFP4)


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained model, its sizes, texts to calibrate and to judge on, and its predictions on the latter."""

    model: Any
    decoder: Decoder
    calibration: Tensor
    evaluation: Tensor
    expected: Tensor

    def divergence(self, maps: Maps, rounding: Rounding = W4A4) -> float:
        """KL(original ‖ rounded) where there is something to predict."""
        with torch.no_grad():
            found = Student(self.model, self.decoder, rounding)(self.evaluation, maps).log_softmax(-1)
        return float((self.expected.exp() * (self.expected - found)).sum(-1)[:, 2:].mean())

    def learned(self, family: str) -> Maps:
        """Maps of a family after 150 steps."""
        generator = torch.Generator().manual_seed(0)
        maps = starting_maps(self.decoder, family, generator, shifted=family != "rotation")
        learning = Learning(150, rate=1e-2, turn_rate=1e-2, sequences=8)
        return learn(self.model, self.decoder, maps, self.calibration, W4A4, generator, learning).maps.maps()


@pytest.fixture(scope="module")
def subject() -> Subject:
    from transformers import LlamaConfig, LlamaForCausalLM

    generator = torch.Generator().manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.05,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    successors = torch.randint(0, VOCABULARY, (VOCABULARY, 4), generator=generator)
    _plant(model, generator)
    _train(model, successors, generator)
    model.requires_grad_(False)
    calibration, evaluation = (_text(64, successors, generator) for _ in range(2))
    expected = model(evaluation).logits.log_softmax(-1)
    return Subject(model, decoder_of(model.config.to_dict()), calibration, evaluation, expected)


def _plant(model: Any, generator: torch.Generator) -> None:
    """Loud channels that are the same in every token and stay so; norms make up for what they take of the stream."""
    mask = torch.ones(HIDDEN)
    mask[LOUD] = 0
    with torch.no_grad():
        table = model.model.embed_tokens.weight
        table.normal_(generator=generator)
        table[:, LOUD] = LOUDNESS * torch.tensor([1.0, -1.0, 1.0, -1.0])
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_((1 + LOUDNESS**2 * len(LOUD) / HIDDEN) ** 0.5)
    table.register_hook(lambda gradient: gradient * mask)


def _text(count: int, successors: Tensor, generator: torch.Generator) -> Tensor:
    tokens = torch.randint(0, VOCABULARY, (count, 24), generator=generator)
    choice = torch.randint(0, 4, tokens.shape, generator=generator)
    for place in range(2, tokens.shape[1]):
        tokens[:, place] = successors[tokens[:, place - 2], choice[:, place]]
    return tokens


def _train(model: Any, successors: Tensor, generator: torch.Generator) -> None:
    optimizer, steps = torch.optim.Adam(model.parameters()), 200
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        tokens = _text(16, successors, generator)
        logits = model(tokens, use_cache=False).logits[:, 1:-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 2:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def rotation(subject: Subject) -> Maps:
    return subject.learned("rotation")


def _hadamard(decoder: Decoder) -> Maps:
    stream = random_hadamard(decoder.hidden, torch.Generator().manual_seed(0)).float()
    heads = hadamard_matrix(decoder.head, dtype=torch.float32).expand(decoder.kv_heads, -1, -1)
    return Maps(orthogonal(stream), (orthogonal(heads),) * decoder.layers, Online())


def test_a_hadamard_transform_beats_none_and_a_learned_rotation_beats_it(subject: Subject, rotation: Maps) -> None:
    none, hadamard = subject.divergence(Maps()), subject.divergence(_hadamard(subject.decoder))
    assert hadamard < 0.8 * none
    assert subject.divergence(rotation) < 0.9 * hadamard


@pytest.mark.parametrize("family", ["lu", "qr"])
def test_learned_affine_maps_beat_learned_rotations(family: str, subject: Subject, rotation: Maps) -> None:
    assert subject.divergence(subject.learned(family)) < 0.9 * subject.divergence(rotation)


def test_only_affine_maps_change_the_model_before_anything_is_rounded(subject: Subject, rotation: Maps) -> None:
    assert abs(subject.divergence(rotation, Rounding())) < 1e-6
    drift = subject.divergence(subject.learned("lu"), Rounding())
    assert 1e-4 < drift < 0.5 * subject.divergence(rotation)
