"""Token by token the decoder says what it says of the whole text; packed weights say what their values say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from packed_directory import FORMATS, pack
from safetensors.torch import load_file, save_file
from tiny_decoders import FAMILIES, make

from octavo.base.errors import CheckpointError, ModelError
from octavo.base.keeping import Keeping
from octavo.formats.format import Format
from octavo.hub.stored import open_stored
from octavo.models.decoder import Decoder
from octavo.models.decoder_loading import load_decoder
from octavo.models.decoder_step import DecodingStep

TOLERANCE = 1e-4
TERNARY = "int(levels=3) b32 absmean:bf16"
ENTROPY_CODED = ("grid(states=8)@3.0 separable ans", "cbrt-t(df=5)@4 b64 absmax:bf16 ans")


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Decoder]:
    return make(request.param, tmp_path_factory.mktemp("family"))


def test_steps_give_the_logits_of_transformers(pair: tuple[Any, Decoder], generator: torch.Generator) -> None:
    model, decoder = pair
    tokens = torch.randint(0, 61, (2, 40), generator=generator)
    with torch.no_grad():
        expected = model(tokens).logits
    cache = decoder.cache(3, 40)
    step = DecodingStep(decoder, cache)
    # The two sequences are of different length all along, and the slots out of order.
    decoder.prefill(tokens[0, :5], cache, 2)
    decoder.prefill(tokens[1, :20], cache, 0)
    for i in range(20):
        found = step([int(tokens[0, 5 + i]), int(tokens[1, 20 + i])], [2, 0])
        assert (found - torch.stack([expected[0, 5 + i], expected[1, 20 + i]])).abs().max() < TOLERANCE
    assert cache.lengths == [40, 0, 25]


def test_no_bit_of_a_row_depends_on_the_others(pair: tuple[Any, Decoder], generator: torch.Generator) -> None:
    decoder = pair[1]
    prompts = torch.randint(0, 61, (6, 9), generator=generator)
    together, alone = decoder.cache(6, 16), decoder.cache(6, 16)
    steps = DecodingStep(decoder, together), DecodingStep(decoder, alone)
    for slot, prompt in enumerate(prompts):
        decoder.prefill(prompt[: slot + 2], together, slot)
        decoder.prefill(prompt[: slot + 2], alone, slot)
    for _ in range(3):
        rows = steps[0]([7] * 6, [*range(6)]).clone()
        for slot in range(6):
            assert torch.equal(steps[1]([7], [slot])[0], rows[slot])


def test_a_step_after_a_step_may_be_a_prompt(pair: tuple[Any, Decoder], generator: torch.Generator) -> None:
    decoder = pair[1]
    tokens = torch.randint(0, 61, (1, 30), generator=generator)
    cache = decoder.cache(1, 32)
    step = DecodingStep(decoder, cache)
    for token in tokens[0, :10].tolist():
        step([token], [0])
    found = decoder.prefill(tokens[0, 10:], cache)
    assert (found - decoder.logits(tokens)[0, -1]).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    ("fmt", "keep"),
    [
        *((fmt, "resident") for fmt in (*FORMATS, *ENTROPY_CODED)),
        *((fmt, "stored") for fmt in (TERNARY, *ENTROPY_CODED)),
    ],
)
def test_packed_weights_compute_with_their_values(
    fmt: str, keep: Keeping, tmp_path: Path, generator: torch.Generator
) -> None:
    make("qwen2", tmp_path / "dense")
    pack(tmp_path / "dense", tmp_path / "packed", Format.parse(fmt))
    dense, packed = (load_decoder(open_stored(tmp_path / name), keep=keep) for name in ("dense", "packed"))
    tokens = torch.randint(0, 61, (1, 12), generator=generator)
    assert torch.allclose(packed.logits(tokens), dense.logits(tokens), atol=1e-5)
    for decoder in (dense, packed):
        cache = decoder.cache(1, 12)
        step = DecodingStep(decoder, cache)
        found = [step([token], [0]).clone() for token in tokens[0].tolist()]
        assert (torch.stack(found, dim=1) - dense.logits(tokens)).abs().max() < TOLERANCE
    assert packed.nbytes < dense.nbytes
    if keep == "stored":
        stored = open_stored(tmp_path / "packed")
        files = [stored.quantized(name) for name in stored.entries]
        norms = sum(stored.dense(name).nbytes for name in stored.names if name not in stored.entries)
        assert packed.nbytes == norms + sum(part.nbytes for each in files if each for part in each.parts.values())


@pytest.mark.parametrize("kind", ["llama 2", "qwen2", "qwen3"])
def test_eight_bits_stay_near(kind: str, tmp_path: Path, generator: torch.Generator) -> None:
    make(kind, tmp_path / "dense")
    pack(tmp_path / "dense", tmp_path / "packed", Format.parse("int@8 b32 absmax:fp16"))
    stored = open_stored(tmp_path / "packed")
    exact, rounded = load_decoder(stored), load_decoder(stored, arithmetic="int8")
    tokens = torch.randint(0, 61, (1, 40), generator=generator)
    expected = exact.logits(tokens)[0]
    cache = rounded.cache(1, 40)
    step = DecodingStep(rounded, cache)
    read = rounded.prefill(tokens[0, :20], cache)
    made = [step([token], [0])[0].clone() for token in tokens[0, 20:].tolist()]
    read_on = rounded.logits(tokens)[0]
    size = (expected - expected.mean(-1, keepdim=True)).square().mean().sqrt()
    for found, place in ((read[None], slice(19, 20)), (torch.stack(made), slice(20, 40)), (read_on, slice(0, 40))):
        assert found.dtype == torch.float32
        assert (found - expected[place]).square().mean().sqrt() < 0.06 * size


def test_arithmetic_has_a_name(pair: tuple[Any, Decoder], tmp_path: Path) -> None:
    pair[0].save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no arithmetic 'int4'"):
        load_decoder(open_stored(tmp_path), arithmetic="int4")  # pyright: ignore[reportArgumentType]


def test_forms_in_memory_have_a_name(pair: tuple[Any, Decoder], tmp_path: Path) -> None:
    pair[0].save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot be kept 'dense'"):
        load_decoder(open_stored(tmp_path), keep="dense")  # pyright: ignore[reportArgumentType]


def test_damage_of_a_stream_is_noticed_where_it_is_used(tmp_path: Path) -> None:
    make("qwen2", tmp_path / "dense")
    pack(tmp_path / "dense", tmp_path / "packed", Format.parse(ENTROPY_CODED[0]))
    file = tmp_path / "packed" / "model.safetensors"
    parts = load_file(file)
    name = "model.layers.0.mlp.down_proj.weight.coded"
    whole = parts[name].clone()
    parts[name][-5:] ^= 85
    save_file(parts, file, {"format": "pt"})
    decoder = load_decoder(open_stored(tmp_path / "packed"), keep="stored")
    with pytest.raises(CheckpointError, match="entropy-coded tensor is damaged"):
        decoder.logits(torch.tensor([[1, 2]]))
    save_file({**parts, name: whole[:-4].clone()}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model\.layers\.0\.mlp\.down_proj\.weight: .* is damaged"):
        load_decoder(open_stored(tmp_path / "packed"), keep="stored")


def test_bfloat16_stays_as_it_is_stored(tmp_path: Path, generator: torch.Generator) -> None:
    model, _ = make("qwen2", tmp_path)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    decoder = load_decoder(open_stored(tmp_path))
    assert decoder.layers[0].inner.pieces[0].dtype == torch.bfloat16
    tokens = torch.randint(0, 61, (1, 12), generator=generator)
    with torch.no_grad():
        expected = type(model).from_pretrained(tmp_path, dtype=torch.float32)(tokens).logits
    assert (decoder.logits(tokens) - expected).abs().max() < TOLERANCE
    cache = decoder.cache(1, 12)
    step = DecodingStep(decoder, cache)
    found = [step([token], [0]).clone() for token in tokens[0].tolist()]
    assert (torch.stack(found, dim=1) - expected).abs().max() < TOLERANCE


def test_packed_products_of_one_format_are_one(tmp_path: Path) -> None:
    make("llama 2", tmp_path / "dense")
    pack(tmp_path / "dense", tmp_path / "packed", Format.parse("int@8 channel absmax:fp16"))
    layer = load_decoder(open_stored(tmp_path / "packed")).layers[0]
    assert [len(linear.pieces) for linear in (layer.attention, layer.inner)] == [1, 1]


def test_in_other_dtypes_sequences_take_turns(pair: tuple[Any, Decoder], tmp_path: Path) -> None:
    pair[0].save_pretrained(tmp_path)
    decoder = load_decoder(open_stored(tmp_path), torch.float64)
    cache = decoder.cache(2, 8)
    step = DecodingStep(decoder, cache)
    for token in (5, 6, 7):
        found = step([token, token], [1, 0])
    assert (found.float() - pair[1].logits(torch.tensor([[5, 6, 7]]))[:, -1]).abs().max() < TOLERANCE


def test_a_full_slot_takes_no_token(pair: tuple[Any, Decoder]) -> None:
    step = DecodingStep(pair[1], pair[1].cache(2, 2))
    for _ in range(2):
        step([1], [1])
    with pytest.raises(ModelError, match="context of 2"):
        step([1], [1])
    with pytest.raises(ModelError, match="cannot take"):
        step([1, 2], [0, 0])
    with pytest.raises(ModelError, match="outside"):
        step([99], [0])


@pytest.mark.model
def test_smollm2_says_what_it_says_in_transformers() -> None:
    from octavo.models import load_language_model

    model, tokenizer = load_language_model("smollm2-135m")
    decoder = load_decoder(open_stored("smollm2-135m"))
    tokens = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = model(tokens).logits
    assert (decoder.logits(tokens) - expected).abs().max() < TOLERANCE
    cache = decoder.cache(1, 64)
    step = DecodingStep(decoder, cache)
    decoder.prefill(tokens[0, :2], cache)
    for token in tokens[0, 2:].tolist():
        found = step([token], [0])
    assert (found[0] - expected[0, -1]).abs().max() < TOLERANCE
    assert tokenizer.decode(found[0].argmax()) == " Paris"
