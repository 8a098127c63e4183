"""A quantized cache does what transformers' own does, keeps nothing dense of old tokens, and says what it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lossless import LOSSLESS
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
)

from octavo.base.errors import FormatError, ModelError
from octavo.calibrate.running import cached_logits, logits
from octavo.formats import parse
from octavo.models import load_language_model
from octavo.models.cache import QuantizedCache
from octavo.models.cache_format import CacheFormat

GROUP = 8
CONFIG = LlamaConfig(hidden_size=48, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2)


def cache_format(text: str, group: int = GROUP) -> CacheFormat:
    found = CacheFormat.parse(text)
    return CacheFormat(found.keys, found.values, group)


def some_states(tokens: int, batch: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, batch, 2, tokens, 12, generator=generator)
    return keys, values


def filled(text: str, tokens: int, batch: int = 1) -> QuantizedCache:
    cache = QuantizedCache(CONFIG, cache_format(text))
    for layer in range(2):
        cache.update(*some_states(tokens, batch, layer), layer)
    return cache


def seen(cache: QuantizedCache) -> list[Tensor]:
    """All keys and values as attention would see them."""
    nothing = torch.zeros(len(cache.layers[0].packed), 2, 0, 12)
    return [states for layer in range(2) for states in cache.update(nothing, nothing, layer)]


def reachable(thing: Any) -> Iterator[Tensor]:
    """Every tensor that an object holds, directly or not."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, dict):
        for item in thing.values():
            yield from reachable(item)
    elif isinstance(thing, list | tuple):
        for item in thing:
            yield from reachable(item)
    elif is_dataclass(thing):
        for field in fields(thing):
            yield from reachable(getattr(thing, field.name))
    elif type(thing).__module__.startswith("octavo.models"):
        yield from reachable(vars(thing))


@pytest.fixture
def llama(tiny_llama: Path) -> Any:
    return load_language_model(tiny_llama)[0]


@pytest.fixture
def tokens(generator: torch.Generator) -> Tensor:
    return torch.randint(1, 384, (3, 29), generator=generator)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_generation_is_that_of_a_dense_cache_where_nothing_is_lost(llama: Any, tokens: Tensor, options: Any) -> None:
    padded = torch.ones_like(tokens)
    padded[0, :11] = padded[1, :3] = 0
    options = {**options, "attention_mask": padded, "max_new_tokens": 30, "do_sample": False, "eos_token_id": None}
    cache = QuantizedCache(llama.config, cache_format(LOSSLESS))
    found = llama.generate(tokens, past_key_values=cache, **options)
    assert torch.equal(found, llama.generate(tokens, **options))
    assert cache.memory().packed_tokens == 48


def test_coarse_formats_change_what_is_generated(llama: Any, tokens: Tensor) -> None:
    options = {"attention_mask": torch.ones_like(tokens), "max_new_tokens": 30, "do_sample": False}
    cache = QuantizedCache(llama.config, cache_format("int@2 b8"))
    assert not torch.equal(llama.generate(tokens, past_key_values=cache, **options), llama.generate(tokens, **options))


def test_layers_with_sliding_windows_stay_as_they_are(generator: torch.Generator) -> None:
    config = Gemma2Config(
        vocab_size=99,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=10,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Gemma2ForCausalLM(config).eval()
    tokens = torch.randint(1, 99, (2, 20), generator=generator)
    options = {"attention_mask": torch.ones_like(tokens), "max_new_tokens": 20, "do_sample": False}
    cache = QuantizedCache(config, cache_format(LOSSLESS))
    assert [type(layer).__name__ for layer in cache.layers] == ["DynamicSlidingWindowLayer", "PackedLayer"]
    found = model.generate(tokens, past_key_values=cache, eos_token_id=None, **options)
    assert torch.equal(found, model.generate(tokens, eos_token_id=None, **options))
    assert (cache.memory().tokens, cache.memory().packed_tokens) == (39, 24)


def test_tokens_in_chunks_are_tokens_one_by_one(llama: Any, tokens: Tensor) -> None:
    """In chunks of a group every token sees the packed tokens that it would see if it came alone."""
    llama.double()
    format = cache_format("int@3 b8")
    row = tokens.flatten()
    with torch.no_grad():
        chunked, single = (
            cached_logits(llama, row, QuantizedCache(llama.config, format), chunk) for chunk in (GROUP, 1)
        )
        dense = logits(llama, row)
    assert torch.allclose(chunked, single, atol=1e-9)
    # The first chunks see nothing that is packed.
    assert torch.allclose(chunked[: 2 * GROUP], dense[: 2 * GROUP], atol=1e-9)
    assert (chunked[2 * GROUP :] - dense[2 * GROUP :]).abs().amax(1).min() > 1e-3


@settings(max_examples=20)
@given(steps=st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_recent_tokens_stay_as_they_came(steps: list[int]) -> None:
    keys, values = some_states(sum(steps))
    cache = QuantizedCache(CONFIG, cache_format("int@4 b8"))
    for k, v in zip(keys.split(steps, dim=2), values.split(steps, dim=2), strict=True):
        cache.update(k, v, 0)
    total, layer = sum(steps), cache.layers[0]
    recent = total - layer.packed_tokens
    assert cache.get_seq_length() == total
    assert recent == total if total < 2 * GROUP else GROUP <= recent < 2 * GROUP
    assert torch.equal(layer.keys, keys[:, :, total - recent :])
    assert torch.equal(layer.values, values[:, :, total - recent :])


def test_what_is_packed_is_the_groups_quantized() -> None:
    keys, values = some_states(30, batch=3)
    cache = filled("int@4 b8/int@3 channel", 30, batch=3)
    found_keys, found_values, *_ = seen(cache)
    for row in range(3):
        for group in range(2):
            part = slice(group * GROUP, group * GROUP + GROUP)
            expected = parse("int@4 b8").fake_quantize(keys[row, :, part].transpose(1, 2)).transpose(1, 2)
            assert torch.equal(found_keys[row, :, part], expected)
            assert torch.equal(found_values[row, :, part], parse("int@3 channel").fake_quantize(values[row, :, part]))
    assert torch.equal(found_keys[:, :, 16:], keys[:, :, 16:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_numbers_come_back_in_the_dtype_of_the_model(dtype: torch.dtype) -> None:
    keys, values = (states.to(dtype) for states in some_states(30))
    cache = QuantizedCache(CONFIG, cache_format(LOSSLESS))
    cache.update(keys, values, 0)
    found = cache.update(keys[:, :, :1], values[:, :, :1], 0)
    assert [states.dtype for states in found] == [dtype, dtype]
    assert torch.equal(found[0], torch.cat([keys, keys[:, :, :1]], dim=2))
    assert cache.layers[0].keys.dtype == dtype


def test_a_batch_does_not_change_a_sequence() -> None:
    keys, values = some_states(40, batch=3)
    nothing = keys[:, :, :0]
    together = QuantizedCache(CONFIG, cache_format("lloyd@2 tensor"))
    together.update(keys, values, 0)
    found = together.update(nothing, nothing, 0)
    for row in range(3):
        alone = QuantizedCache(CONFIG, cache_format("lloyd@2 tensor"))
        alone.update(keys[row : row + 1], values[row : row + 1], 0)
        for one, all_three in zip(alone.update(nothing[:1], nothing[:1], 0), found, strict=True):
            assert torch.equal(one[0], all_three[row])


@pytest.mark.parametrize("text", ["int@4 b8", "int@2 channel", "lloyd@3 tensor"])
def test_memory_is_counted_to_the_byte(text: str) -> None:
    cache = filled(text, 70, batch=2)
    memory = cache.memory()
    assert (memory.tokens, memory.packed_tokens) == (70, 56)
    assert memory.bytes == sum(tensor.untyped_storage().nbytes() for tensor in reachable(cache))
    assert memory.recent_bytes == 4 * memory.recent_numbers == 4 * 2 * 2 * 2 * 2 * 14 * 12
    assert memory.packed_numbers == 2 * 2 * 2 * 2 * 56 * 12
    assert memory.bfloat16_bytes == 2 * 2 * 2 * 2 * 2 * 70 * 12
    assert memory.bits == 8 * memory.bytes / (2 * 2 * 2 * 2 * 70 * 12)


def test_bits_are_those_of_the_formats() -> None:
    assert filled("int@4 b8", 70).memory().packed_bits == pytest.approx((4 + 16 / 8 + 4 + 16 / 6) / 2)
    assert filled("int@4 channel absmax:fp16/int@2 channel", 70).memory().packed_bits == pytest.approx(
        (4 + 16 / 8 + 2 + 16 / 12) / 2
    )
    empty = QuantizedCache(CONFIG, "int@4").memory()
    assert (empty.tokens, empty.bytes, empty.bits, empty.packed_bits) == (0, 0, 0, 0)


def test_recent_tokens_can_be_taken_back() -> None:
    cache = filled("int@4 b8", 30)
    before = seen(cache)
    cache.crop(-9)
    assert cache.get_seq_length() == 21
    assert all(torch.equal(now, then[:, :, :21]) for now, then in zip(seen(cache), before, strict=True))
    assert cache.memory().bytes == sum(tensor.untyped_storage().nbytes() for tensor in reachable(cache))
    for count in (-6, 3):
        with pytest.raises(ModelError, match=f"cannot be cropped by {count}; take back at most its 5 recent tokens"):
            cache.crop(count)
    assert not cache.is_croppable


def test_sequences_are_chosen_repeated_and_reordered() -> None:
    cache = filled("int@4 b8", 30, batch=3)
    before = seen(cache)
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    assert all(torch.equal(now, then[[2, 0, 0]]) for now, then in zip(seen(cache), before, strict=True))
    packed = filled("int@4 b8", 30, batch=2).memory().packed_bytes
    assert cache.memory().packed_bytes == packed  # two of the three are one
    cache.batch_repeat_interleave(2)
    assert all(torch.equal(now, then[[2, 2, 0, 0, 0, 0]]) for now, then in zip(seen(cache), before, strict=True))
    cache.batch_select_indices(torch.tensor([5, 1]))
    assert all(torch.equal(now, then[[0, 2]]) for now, then in zip(seen(cache), before, strict=True))


def test_it_can_be_emptied_and_used_again() -> None:
    cache = filled("int@4 b8", 30)
    before = seen(cache)
    cache.reset()
    assert (cache.get_seq_length(), cache.memory().bytes) == (0, 0)
    for layer in range(2):
        cache.update(*some_states(30, 1, layer), layer)
    assert all(map(torch.equal, seen(cache), before))


def test_formats_are_read_and_printed() -> None:
    same = CacheFormat.parse("int@4 b32")
    assert same == CacheFormat(parse("int@4 b32"), parse("int@4 b32"))
    two = CacheFormat.parse("cbrt-t(df=5,alpha=1/3)@3 b32 / int@2 channel")
    assert two == CacheFormat(parse("cbrt-t(df=5)@3 b32"), parse("int@2 channel"))
    assert CacheFormat.parse(str(two)) == two


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid@3.0 channel rms:bf16 ans", "use a format of fixed width"),
        ("int@4/int@4 b64 ans", "use a format of fixed width"),
        ("int@4/int@3/int@2", "names more than two formats"),
        ("int@4/", "an empty string is no format"),
        ("none", "unknown element"),
    ],
)
def test_senseless_formats_are_refused(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        QuantizedCache(CONFIG, text)


def test_a_group_has_tokens() -> None:
    with pytest.raises(FormatError, match="a group of 0 tokens"):
        cache_format("int@4", 0)


def test_numbers_that_are_not_finite_are_refused() -> None:
    keys, values = some_states(20)
    values[0, 0, 3, 3] = torch.inf
    with pytest.raises(FormatError, match=r"the cache of keys and values: .*inf"):
        QuantizedCache(CONFIG, cache_format("int@4")).update(keys, values, 0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MistralConfig(num_hidden_layers=2, sliding_window=16), "no tokens old enough"),
        (Lfm2Config(num_hidden_layers=2, layer_types=["full_attention", "conv"]), "keeps a LinearAttentionLayer"),
    ],
)
def test_models_that_keep_something_else_are_refused(config: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        QuantizedCache(config, "int@4")
