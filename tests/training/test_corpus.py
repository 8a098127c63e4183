"""Text becomes tokens: streamed, once, in a fixed order, and what is no text is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.base.errors import ModelError, OutputError
from octavo.checkpoints.durable import locked_directory
from octavo.training import corpus as corpora
from octavo.training import vocabulary as vocabularies
from octavo.training.configuration import DataConfig
from octavo.training.corpus import Corpus, default_corpus, files_corpus, split
from octavo.training.tokenized import TokenizedText, tokenize, vocabulary_size

LINES = "".join(f"Sheet {number}: földed, naïve and <|end|> of no document.\n" for number in range(400))


def of_bytes(cache: Path, *paths: Path, held_out: float = 0.0) -> TokenizedText:
    return tokenize(DataConfig(text=tuple(map(str, paths)), tokenizer="bytes", held_out=held_out), cache)


def test_bytes_are_their_own_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(LINES)
    (tmp_path / "b.md").write_text("second")
    (tmp_path / "c.png").write_bytes(b"\0\1")
    text = of_bytes(tmp_path / "cache", tmp_path)
    assert text.train.astype(np.uint8).tobytes() == LINES.encode() + b"\0second\0"
    assert (text.train.dtype, len(text.held_out), text.vocabulary.size) == (np.uint16, 0, 256)
    assert text.vocabulary.tokenizer.decode(text.train[:-8].tolist()) == LINES
    assert text.vocabulary.tokenizer.encode(LINES).ids == list(LINES.encode())
    assert text.text_bytes == len(LINES.encode()) + 6


@pytest.mark.parametrize("held_out", [0.1, 0.5])
def test_the_end_of_few_files_is_held_out(held_out: float, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(LINES)
    text = of_bytes(tmp_path / "cache", tmp_path / "a.txt", held_out=held_out)
    first, second = (ids.astype(np.uint8).tobytes()[:-1].decode() for ids in (text.train, text.held_out))
    assert first + second == LINES
    assert first.endswith("\n")
    assert len(second) / len(LINES) == pytest.approx(held_out, abs=0.01)


def test_whole_ones_of_many_files_are_held_out(tmp_path: Path) -> None:
    for number in range(120):
        (tmp_path / f"{number}.txt").write_text(f"document {number}.")
    train, held_out = split(files_corpus([tmp_path]).documents(corpora.SILENT), 0.1)
    names = [[document.name for document, _, _ in part] for part in (train, held_out)]
    assert (len(names[0]), len(names[1])) == (108, 12)
    assert sorted(names[0] + names[1]) == sorted(f"{number}.txt" for number in range(120))
    assert all((begin, end) == (0, document.size) for document, begin, end in (*train, *held_out))


@given(st.text(st.sampled_from("aé\n𝄞"), max_size=60), st.integers(0, 200))
def test_ranges_of_a_file_put_together_are_the_file(
    tmp_path_factory: pytest.TempPathFactory, text: str, cut: int
) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(text.encode())
    size = len(text.encode())
    document = files_corpus([path]).documents(corpora.SILENT)[0]
    parts = [list(document.pieces(begin, end)) for begin, end in ((0, min(cut, size)), (min(cut, size), size))]
    assert "".join(parts[0] + parts[1]) == text


def test_pieces_are_small_however_long_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "PIECE", 64)
    (tmp_path / "a.txt").write_text(LINES + "é" * 1000)
    document = files_corpus([tmp_path / "a.txt"]).documents(corpora.SILENT)[0]
    pieces = list(document.pieces(0, document.size))
    assert max(len(piece.encode()) for piece in pieces) <= 2 * 64 + 1
    assert "".join(pieces) == LINES + "é" * 1000


def test_a_trained_tokenizer_is_the_same_each_time(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(LINES)
    config = DataConfig(text=(str(tmp_path / "a.txt"),), vocabulary=300, held_out=0.2)
    one, two = tokenize(config, tmp_path / "one"), tokenize(config, tmp_path / "two")
    assert one.identity == two.identity
    assert one.vocabulary.size == vocabulary_size(config) == 300
    assert np.array_equal(one.train, two.train)
    assert len(one.train) < len(LINES) / 2
    assert one.vocabulary.tokenizer.decode(one.train[:-1].tolist() + one.held_out[:-1].tolist()) == LINES
    assert (one.train == one.vocabulary.end_number).sum() == 1


def test_tokens_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text(LINES)
    first = of_bytes(tmp_path / "cache", tmp_path / "a.txt")
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/*/*")}
    assert of_bytes(tmp_path / "cache", tmp_path / "a.txt").identity == first.identity
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/*/*")} == times
    (tmp_path / "a.txt").write_text(LINES + "more")
    assert of_bytes(tmp_path / "cache", tmp_path / "a.txt").identity["text"] != first.identity["text"]


def test_what_was_cut_short_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text(LINES)
    whole = of_bytes(tmp_path / "whole", tmp_path / "a.txt")

    def killed(*_: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("octavo.training.tokenized.json_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            of_bytes(tmp_path / "cut", tmp_path / "a.txt")
    folder = next((tmp_path / "cut").iterdir())
    assert not (folder / "text.json").exists()
    (folder / "train.tokens").write_bytes(b"half")
    assert np.array_equal(of_bytes(tmp_path / "cut", tmp_path / "a.txt").train, whole.train)


def test_another_process_at_work_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(LINES)
    of_bytes(tmp_path / "cache", tmp_path / "a.txt")
    folder = next((tmp_path / "cache").iterdir())
    (folder / "text.json").unlink()
    with locked_directory(folder, folder), pytest.raises(OutputError, match="another process is writing"):
        of_bytes(tmp_path / "cache", tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the text is empty"),
        (b"text\n\0\1\2", r"a\.txt is not text \(byte 5 is zero\)"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_what_is_no_text_is_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=problem):
        of_bytes(tmp_path / "cache", path)
    assert not list(tmp_path.glob("cache/*/text.json"))


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot read the text"):
        files_corpus([tmp_path / "none.txt"])
    with pytest.raises(ModelError, match="has no text"):
        files_corpus([tmp_path])
    with pytest.raises(ModelError, match="there is no tokenizer"):
        vocabularies.given(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="is no tokenizer"):
        vocabularies.given(tmp_path)
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(ModelError, match=r"has only 2\d\d different tokens, and 4096 are asked for"):
        tokenize(DataConfig(text=(str(tmp_path / "a.txt"),)), tmp_path / "cache")


def test_a_given_tokenizer_is_taken(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(LINES)
    config = DataConfig(text=(str(tmp_path / "a.txt"),), tokenizer=str(tiny_llama))
    text = tokenize(config, tmp_path / "cache")
    assert (text.vocabulary.end, text.vocabulary.size) == ("<|end|>", 384)
    assert text.train[-1] == text.vocabulary.end_number


def test_the_default_corpus_has_no_docstring_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a package of its own: reading all of the real ones takes a minute."""
    package = tmp_path / "folding"
    package.mkdir()
    long = "Fold a sheet so that its halves lie on each other, as often as is asked for." * 3
    (package / "__init__.py").write_text(f'"""{long}"""\n')
    (package / "again.py").write_text(f'"""{long}"""\ndef fold():\n    """Other.{long}"""\n')
    (package / "broken.py").write_text("def (:\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(corpora, "PACKAGES", ("folding",))
    documents = Corpus("folding", corpora._docstrings).documents(corpora.SILENT)
    assert [document.name for document in documents] == ["folding/__init__.py", "folding/again.py"]
    assert ["".join(each.pieces(0, each.size)) for each in documents] == [long, f"Other.{long}"]


def test_the_default_corpus_is_named_by_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = default_corpus().identity
    assert all(f"{name} " in identity for name in corpora.PACKAGES)
    monkeypatch.setattr(corpora, "PACKAGES", ("folding-of-sheets",))
    with pytest.raises(ModelError, match="folding-of-sheets, which is not installed"):
        default_corpus()
