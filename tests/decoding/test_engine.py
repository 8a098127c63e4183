"""A request gets the same tokens in any company, and those that transformers gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from packed_directory import pack
from tiny_decoders import make

from octavo.base.arithmetic import Arithmetic
from octavo.base.errors import CapacityError, ModelError
from octavo.decoding.engine import Emitted, Engine
from octavo.decoding.sampling import Sampling
from octavo.formats.format import Format
from octavo.hub.stored import open_stored
from octavo.models import decoder_step
from octavo.models.decoder import Decoder
from octavo.models.decoder_loading import load_decoder

PROMPTS = ([5, 6, 7], [9], [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22], [30, 31])
SAMPLINGS = (
    Sampling(),
    Sampling(0.8, seed=3),
    Sampling(1.2, top_k=20, top_p=0.9, seed=4),
    Sampling(repetition_penalty=1.3),
)


@pytest.fixture(scope="module", params=["smollm2", "qwen3", "mistral"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Decoder]:
    return make(request.param, tmp_path_factory.mktemp("family"))


@pytest.fixture
def decoder(pair: tuple[Any, Decoder]) -> Decoder:
    return pair[1]


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_step, "CHUNK", 5)
    monkeypatch.setattr(decoder_step, "WHOLE", 5)


def run(engine: Engine, steps: int = 200) -> dict[int, list[Emitted]]:
    """What each slot got until all are free."""
    found: dict[int, list[Emitted]] = {}
    for _ in range(steps):
        for emitted in engine.step():
            found.setdefault(emitted.slot, []).append(emitted)
        if engine.free == engine.cache.slots:
            break
    return found


def alone(decoder: Decoder, prompt: list[int], sampling: Sampling, tokens: int = 20) -> list[int]:
    engine = Engine(decoder, 1, 64)
    engine.admit(prompt, sampling, tokens)
    return [emitted.token for emitted in run(engine)[0]]


def test_greedy_tokens_are_those_of_transformers(pair: tuple[Any, Decoder]) -> None:
    model, decoder = pair
    for prompt in PROMPTS:
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, pad_token_id=0)
        assert alone(decoder, prompt, Sampling()) == expected[0, len(prompt) :].tolist()


def check_company(decoder: Decoder) -> None:
    engine = Engine(decoder, 4, 64)
    found: dict[int, list[int]] = {}
    # One request comes each other step, so that prompts are read between tokens of others.
    slots = {}
    for prompt, sampling in zip(PROMPTS, SAMPLINGS, strict=True):
        slots[engine.admit(prompt, sampling, 20)] = prompt, sampling
        for _ in range(2):
            for emitted in engine.step():
                found.setdefault(emitted.slot, []).append(emitted.token)
    for slot, tokens in run(engine).items():
        found.setdefault(slot, []).extend(emitted.token for emitted in tokens)
    assert len(slots) == 4
    for slot, (prompt, sampling) in slots.items():
        assert found[slot] == alone(decoder, prompt, sampling)


def test_company_changes_nothing(decoder: Decoder) -> None:
    check_company(decoder)


@pytest.mark.parametrize("arithmetic", ["exact", "int8"])
@pytest.mark.parametrize("fmt", ["int@4 b32 absmax:bf16", "trellis@3 channel rms:u8"])
def test_company_changes_nothing_of_packed_models(fmt: str, arithmetic: Arithmetic, tmp_path: Path) -> None:
    make("smollm2", tmp_path / "dense")
    pack(tmp_path / "dense", tmp_path / "packed", Format.parse(fmt))
    check_company(load_decoder(open_stored(tmp_path / "packed"), arithmetic=arithmetic))


@pytest.mark.parametrize("fmt", ["grid(states=8)@3.0 separable ans", "int(levels=3) b32 absmean:bf16"])
def test_company_changes_nothing_of_models_kept_as_stored(fmt: str, tmp_path: Path) -> None:
    make("smollm2", tmp_path / "dense")
    pack(tmp_path / "dense", tmp_path / "packed", Format.parse(fmt))
    check_company(load_decoder(open_stored(tmp_path / "packed"), keep="stored"))


def test_a_slot_forgets_what_was_there(decoder: Decoder) -> None:
    engine = Engine(decoder, 2, 64)
    expected = alone(decoder, PROMPTS[0], Sampling())
    for _ in range(3):
        slot = engine.admit(PROMPTS[0], Sampling(), 20)
        assert [emitted.token for emitted in run(engine)[slot]] == expected
    slot = engine.admit(PROMPTS[2], Sampling(), 20)
    engine.step()
    engine.release(slot)
    assert engine.free == 2
    assert engine.step() == []
    assert engine.admit(PROMPTS[0], Sampling(), 20) == slot
    assert [emitted.token for emitted in run(engine)[slot]] == expected


def test_long_prompts_do_not_stall_others(decoder: Decoder) -> None:
    engine = Engine(decoder, 2, 64)
    quick = engine.admit([5], Sampling(), 30)
    assert [emitted.slot for emitted in engine.step()] == [quick]
    slow = engine.admit(list(range(1, 18)), Sampling(), 2)
    # Seventeen tokens are four chunks; the other gets its token in every step.
    assert [[emitted.slot for emitted in engine.step()] for _ in range(4)] == [*[[quick]] * 3, [quick, slow]]


def test_what_ends_a_request(decoder: Decoder) -> None:
    tokens = alone(decoder, PROMPTS[0], Sampling())
    engine = Engine(decoder, 1, 64)
    engine.admit(PROMPTS[0], Sampling(), 20, frozenset({tokens[3], 60}))
    stopped = run(engine)[0]
    first = tokens.index(tokens[3])
    assert [emitted.token for emitted in stopped] == tokens[: first + 1]
    assert [emitted.finish for emitted in stopped] == [*[None] * first, "stop"]
    engine.admit(PROMPTS[0], Sampling(), 2)
    assert [emitted.finish for emitted in run(engine)[0]] == [None, "length"]


def test_a_full_context_ends_a_request(decoder: Decoder) -> None:
    tokens = alone(decoder, PROMPTS[0], Sampling())
    engine = Engine(decoder, 1, 8)
    engine.admit(PROMPTS[0], Sampling(), 20)
    found = run(engine)[0]
    # The last token needs no place.
    assert [emitted.token for emitted in found] == tokens[:6]
    assert [emitted.finish for emitted in found] == [*[None] * 5, "length"]
    engine.admit([1] * 8, Sampling(), 20)
    assert [emitted.finish for emitted in run(engine)[0]] == ["length"]


def test_requests_that_do_not_fit_are_refused(decoder: Decoder) -> None:
    engine = Engine(decoder, 1, 8)
    for prompt, tokens, message in (
        ([], 5, "no sense"),
        ([1], 0, "no sense"),
        ([1] * 9, 5, "9 tokens"),
        ([61], 5, "60"),
    ):
        with pytest.raises(ModelError, match=message):
            engine.admit(prompt, Sampling(), tokens)
    assert engine.free == 1
    engine.admit([1], Sampling(), 5)
    with pytest.raises(CapacityError, match="1 slots"):
        engine.admit([1], Sampling(), 5)
    with pytest.raises(ModelError, match="context of 96"):
        Engine(decoder, 1, 97)


def test_damaged_weights_are_found_at_the_first_token(tmp_path: Path) -> None:
    decoder = make("llama 2", tmp_path)[1]
    weight = decoder.layers[1].down.pieces[0]
    assert isinstance(weight, torch.Tensor)
    weight[0, 0] = float("nan")
    engine = Engine(decoder, 1, 8)
    engine.admit([1], Sampling(), 5)
    with pytest.raises(ModelError, match="not finite"):
        engine.step()
