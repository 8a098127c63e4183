"""Learning maps: seeded, bounded, on a frozen model, and what it starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from octavo.base.errors import ModelError, OctavoError
from octavo.models import load_language_model
from octavo.transforms.activations import activation_format
from octavo.transforms.decoder import Decoder, decoder_of
from octavo.transforms.learning import Learned, Learning, learn, starting_maps
from octavo.transforms.student import Rounding, Student

MXFP4 = activation_format("mxfp4")
W4A4 = Rounding(MXFP4, MXFP4)


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Any:
    return load_language_model(tiny_llama)[0].requires_grad_(False)


@pytest.fixture(scope="module")
def decoder(model: Any) -> Decoder:
    return decoder_of(model.config.to_dict())


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(0, 384, (4, 32), generator=torch.Generator().manual_seed(1))


def learned(model: Any, decoder: Decoder, tokens: Tensor, learning: Learning, family: str = "lu") -> Learned:
    generator = torch.Generator().manual_seed(0)
    maps = starting_maps(decoder, family, generator, shifted=True)
    return learn(model, decoder, maps, tokens, W4A4, generator, learning)


def test_one_seed_one_result_and_the_model_stays(model: Any, decoder: Decoder, tokens: Tensor) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, two = (learned(model, decoder, tokens, Learning(steps=3)) for _ in range(2))
    assert one.losses == two.losses
    assert len(one.losses) == 3
    states = one.maps.state_dict(), two.maps.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in one.maps.parameters())
    assert all(parameter.any() for parameter in one.maps.parameters())


def test_it_ends_when_its_time_is_over(model: Any, decoder: Decoder, tokens: Tensor) -> None:
    found = learned(model, decoder, tokens, Learning(steps=10_000, minutes=0.005))
    assert 1 <= len(found.losses) < 10_000


def test_products_in_bfloat16_lead_to_about_the_same(model: Any, decoder: Decoder, tokens: Tensor) -> None:
    narrow, wide = (learned(model, decoder, tokens, Learning(steps=2, bfloat16=b)).losses for b in (True, False))
    assert narrow != wide
    assert narrow == pytest.approx(wide, rel=0.1)


def test_the_penalty_holds_the_volume(model: Any, decoder: Decoder, tokens: Tensor) -> None:
    free, held = (
        learned(model, decoder, tokens, Learning(steps=15, rate=1e-2, volume=volume)).maps for volume in (0.0, 1.0)
    )
    assert held.volume() < 0.1 * free.volume()


def test_maps_start_as_hadamard_transforms(model: Any, decoder: Decoder, tokens: Tensor) -> None:
    expected = model(tokens).logits
    for family in ("rotation", "qr", "lu"):
        for block in (None, 16):
            maps = starting_maps(decoder, family, torch.Generator().manual_seed(0), block).maps()
            with torch.no_grad():
                found = Student(model, decoder, Rounding())(tokens, maps)
            assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_loss_that_is_not_finite_ends_it(model: Any, decoder: Decoder, tokens: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = starting_maps(decoder, "lu", generator)
    with torch.no_grad():
        maps.values[0].log_scale[0, 0] = torch.inf  # pyright: ignore[reportIndexIssue]
    with pytest.raises(OctavoError, match="diverged at step 1"):
        learn(model, decoder, maps, tokens, W4A4, generator, Learning(steps=2))


def test_a_packed_model_cannot_teach(tiny_llama: Path, tmp_path: Path, decoder: Decoder) -> None:
    import octavo

    octavo.compress(tiny_llama, tmp_path / "packed", format="int@4 b16", sensitivity="uniform")
    packed, _ = load_language_model(tmp_path / "packed")
    with pytest.raises(ModelError, match="no dense linear layer"):
        Student(packed, decoder, W4A4)
