"""Text comes in whole characters, and stops where it must, however it is cut into tokens."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.decoding.text import LONGEST, REPLACEMENT, TextStream


@dataclass(frozen=True)
class Pieces:
    """A tokenizer whose tokens are runs of bytes."""

    pieces: Sequence[bytes]

    def decode(self, token_ids: list[int], **_: Any) -> str:
        return b"".join(self.pieces[token] for token in token_ids).decode(errors="replace")


def streamed(data: bytes, cuts: list[int], stop: Sequence[str] = ()) -> tuple[list[str], bool]:
    places = [0, *sorted({cut % (len(data) + 1) for cut in cuts} - {0, len(data)}), len(data)]
    pieces = [data[begin:end] for begin, end in itertools.pairwise(places)]
    stream = TextStream(Pieces(pieces), stop)
    return [*(stream.push(token) for token in range(len(pieces))), stream.finish()], stream.stopped


TEXT = st.text(st.sampled_from("ab né中🙂\n"), max_size=30)
CUTS = st.lists(st.integers(0, 200), max_size=60)
STOPS = st.lists(st.text(st.sampled_from("ab 中🙂"), min_size=1, max_size=4), max_size=3)


@given(TEXT, CUTS)
def test_pieces_are_whole_and_together_the_text(text: str, cuts: list[int]) -> None:
    pieces, stopped = streamed(text.encode(), cuts)
    assert "".join(pieces) == text
    assert not stopped
    assert all(REPLACEMENT not in piece for piece in pieces)


@given(TEXT, CUTS, STOPS)
def test_the_first_stop_string_ends_the_text(text: str, cuts: list[int], stop: list[str]) -> None:
    pieces, stopped = streamed(text.encode(), cuts, stop)
    ends = [(text.index(each) + len(each), text.index(each)) for each in stop if each in text]
    assert "".join(pieces) == (text[: min(ends)[1]] if ends else text)
    assert stopped == bool(ends)


@given(st.binary(max_size=40), CUTS)
def test_bytes_that_are_no_text_are_replaced(data: bytes, cuts: list[int]) -> None:
    assert "".join(streamed(data, cuts)[0]) == data.decode(errors="replace")


def test_nothing_waits_for_a_character_that_cannot_come() -> None:
    stream = TextStream(Pieces([b"\xff"] * 20))
    assert len("".join(stream.push(token) for token in range(20))) == 20 - LONGEST + 1


def test_after_a_stop_string_nothing_comes() -> None:
    stream = TextStream(Pieces([b"one. t", b"wo. ", b"three"]), ["."])
    assert [stream.push(0), stream.push(1), stream.finish()] == ["one", "", ""]


def test_text_that_might_stop_is_held_no_longer_than_needed() -> None:
    stream = TextStream(Pieces([b"a<", b"|", b"b", b"<|", b"end"]), ["<|end|>"])
    assert [stream.push(token) for token in range(5)] == ["a", "", "<|b", "", ""]
    assert stream.finish() == "<|end"


@pytest.mark.parametrize("text", ["A sheet folded twice: 中文 🙂🙂, né.", " leading", "<|end|>inside<|end|>"])
def test_a_real_tokenizer_streams_what_it_decodes(text: str, tiny_llama: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokens = tokenizer(text).input_ids
    stream = TextStream(tokenizer)
    pieces = [*(stream.push(token) for token in tokens), stream.finish()]
    assert "".join(pieces) == tokenizer.decode(tokens, skip_special_tokens=True)
