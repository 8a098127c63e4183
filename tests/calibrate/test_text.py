"""Texts come from Python itself, and windows never overlap."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from octavo.base.errors import ModelError
from octavo.calibrate.text import default_text, heldout_text, read_text, token_sequences


@pytest.fixture
def tokenizer(tiny_llama: Path):
    return AutoTokenizer.from_pretrained(tiny_llama)


def test_default_texts_are_large_and_share_no_passage() -> None:
    calibration, heldout = default_text(), heldout_text()
    assert min(len(calibration), len(heldout)) > 200_000
    assert heldout == heldout_text()
    passages = heldout.split("\n\n")
    shared = sum(passage in calibration for passage in passages if len(passage) > 200)
    assert shared <= 0.01 * len(passages)


def test_windows_do_not_overlap_and_are_of_the_text(tokenizer, generator: torch.Generator) -> None:
    text = " ".join(map(str, range(1500)))
    tokens = tokenizer(text, verbose=False).input_ids
    rows = token_sequences(tokenizer, text, length=50, count=10_000, generator=generator)
    assert rows.shape == (len(tokens) // 50, 50)
    assert sorted(map(tuple, rows.tolist())) == sorted(tuple(tokens[i : i + 50]) for i in range(0, 50 * len(rows), 50))
    assert rows.tolist() != sorted(rows.tolist())


def test_windows_depend_on_the_generator_only(tokenizer) -> None:
    def draw(seed: int) -> torch.Tensor:
        return token_sequences(tokenizer, default_text()[:20_000], 64, 5, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_without_a_generator_windows_are_spread_evenly(tokenizer) -> None:
    text = default_text()[:20_000]
    every = token_sequences(tokenizer, text, 64, 10_000)
    some = token_sequences(tokenizer, text, 64, 4)
    assert torch.equal(some, every[[len(every) * i // 4 for i in range(4)]])


def test_special_tokens_surround_every_window(generator: torch.Generator) -> None:
    class Bracketing:
        bos_token_id, cls_token_id = None, 7

        def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = True):
            inner = [int(word) for word in text.split()]

            class Encoded:
                input_ids = [7, *inner, 8] if add_special_tokens else inner

            return Encoded()

    rows = token_sequences(Bracketing(), "1 2 3 4 5 6", length=5, count=9, generator=generator)
    assert sorted(rows.tolist()) == [[7, 1, 2, 3, 8], [7, 4, 5, 6, 8]]


def test_a_text_shorter_than_a_sequence_is_refused(tokenizer, generator: torch.Generator) -> None:
    with pytest.raises(ModelError, match="one sequence needs 512"):
        token_sequences(tokenizer, "short", generator=generator)
    with pytest.raises(ModelError, match="make no sense"):
        token_sequences(tokenizer, "short", length=0, generator=generator)


def test_files_are_read_and_bad_ones_named(tmp_path: Path) -> None:
    one, two, bad = (tmp_path / name for name in ("one.txt", "two.txt", "bad.txt"))
    one.write_text("first", encoding="utf-8")
    two.write_text("zweites Stück", encoding="utf-8")
    bad.write_bytes(b"\xff\xfe\x00")
    assert read_text("as it is") == "as it is"
    assert read_text(one) == "first"
    assert read_text([one, two]) == "first\n\nzweites Stück"
    with pytest.raises(ModelError, match="not UTF-8"):
        read_text(bad)
    with pytest.raises(ModelError, match="cannot read the text"):
        read_text(tmp_path / "absent.txt")
