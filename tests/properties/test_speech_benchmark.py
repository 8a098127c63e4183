"""What the speech benchmark rests on: the conversion of Whisper's tensors, and the count of wrong words."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from octavo.base.errors import CheckpointError

PATH = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PATH)
        yield {name: importlib.import_module(name) for name in ("whisper", "transcripts")}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A small Whisper's tensors."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    sides = {"d_model": 8, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 11, "num_mel_bins": 4}
    stacks = {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    tokens = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 1}
    config = WhisperConfig(**sides, **stacks, **tokens, max_source_positions=6, max_target_positions=5)
    model = WhisperForConditionalGeneration(config)
    draws = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(tensor.shape, generator=draws)
        for name, tensor in model.state_dict().items()
        if name != "proj_out.weight"
    }


def joined(state: dict[str, Tensor], whisper: Any) -> dict[str, Tensor]:
    """The tensors as CTranslate2 names and joins them."""
    found = {"decoder/alignment_heads": torch.zeros(2, 2), "decoder/num_heads": torch.tensor(2)}
    for name in state:
        stack, rest = name.removeprefix("model.").split(".", 1)
        layer, rest = rest.removeprefix("layers.").split(".", 1) if rest.startswith("layers.") else (None, rest)
        module, kind = rest.rsplit(".", 1)
        theirs, ours = next((key, value.split()) for key, value in whisper.PARTS.items() if module in value.split())
        kinds = {"weight": "gamma", "bias": "beta"} if "norm" in theirs else {"weight": "weight", "bias": "bias"}
        if theirs == "position_encodings":
            kinds = {"weight": "encodings"}
        prefix = name.removesuffix(f"{module}.{kind}")
        parts = [state.get(f"{prefix}{part}.{kind}") for part in ours]
        width = len(next(part for part in parts if part is not None))
        whole = torch.cat([torch.zeros(width) if part is None else part for part in parts])
        found[f"{stack}/{'' if layer is None else f'layer_{layer}/'}{theirs}/{kinds[kind]}"] = whole
    return found


def test_joined_matrices_are_taken_apart_again(benchmarks: dict[str, Any], state: dict[str, Tensor]) -> None:
    whisper = benchmarks["whisper"]
    found = dict(whisper.converted(joined(state, whisper).items()))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("name", "tensor", "says"),
    [
        ("encoder/layer_0/gate/weight", torch.ones(2, 2), "no tensor of Whisper"),
        ("decoder/layer_0/attention/linear_1/bias", torch.ones(8), "keys a bias"),
    ],
)
def test_what_is_no_whisper_is_refused(benchmarks: dict[str, Any], name: str, tensor: Tensor, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        list(benchmarks["whisper"].converted([(name, tensor)]))


@cache
def distance(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Levenshtein's recursion itself."""
    if not one or not other:
        return len(one) + len(other)
    changed = distance(one[1:], other[1:]) + (one[0] != other[0])
    return min(changed, distance(one[1:], other) + 1, distance(one, other[1:]) + 1)


WORDS = st.lists(st.sampled_from("abc"), max_size=6).map(tuple)


@given(one=WORDS, other=WORDS)
def test_wrong_words_are_the_fewest_edits(
    benchmarks: dict[str, Any], one: tuple[str, ...], other: tuple[str, ...]
) -> None:
    assert benchmarks["transcripts"].edits(one, other) == distance(one, other)


def test_word_errors_are_counted_over_all_sentences(benchmarks: dict[str, Any]) -> None:
    transcripts = benchmarks["transcripts"]
    spoken = [transcripts.words("The heaven, and the Earth."), transcripts.words("It's so.")]
    heard = [transcripts.words("the heaven and earth"), transcripts.words("it's so so")]
    assert transcripts.word_errors(spoken, spoken) == 0
    assert transcripts.word_errors(spoken, heard) == 2 / 7
