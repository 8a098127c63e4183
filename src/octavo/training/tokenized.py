"""A corpus as token ids in two memory-mapped files, made once, in bounded memory.

CACHE/<hash of text, tokenizer and split>/
    tokenizer.json
    train.tokens, held-out.tokens    ids in 16 or 32 bits, documents separated by the end token
    text.json                        how many; written last, so that its presence says that all is whole
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from octavo.base.errors import ModelError
from octavo.base.progress import SILENT, Progress
from octavo.checkpoints.durable import disk_errors, locked_directory, sync_directory, write_durably
from octavo.checkpoints.shards import json_bytes
from octavo.checkpoints.strict_json import read_object
from octavo.training import vocabulary as vocabularies
from octavo.training.configuration import DataConfig
from octavo.training.corpus import Corpus, Part, default_corpus, files_corpus, split
from octavo.training.sources import open_tokens, token_dtype
from octavo.training.vocabulary import Vocabulary

VERSION = 1
TRAINED_ON = 1 << 26
"""Bytes of the text that a tokenizer is trained on, from its beginning."""

_AT_ONCE = 16  # Pieces that are encoded in parallel.


@dataclass(frozen=True, eq=False)
class TokenizedText:
    """A corpus, ready to be trained on.

    Attributes:
        vocabulary: its tokenizer.
        train: ids, memory-mapped.
        held_out: ids that are never trained on; empty for none.
        text_bytes: of the whole corpus.
        identity: what must be the same for a run to go on.
    """

    vocabulary: Vocabulary
    train: np.ndarray
    held_out: np.ndarray
    text_bytes: int
    identity: dict[str, str]


def tokenize(config: DataConfig, cache: Path, progress: Progress = SILENT) -> TokenizedText:
    """The corpus of a config; from the cache, where it was made before.

    Raises:
        ModelError: the text is missing, empty or binary, or the tokenizer cannot be used.
        OutputError: the cache cannot be written, or the disk is full.
    """
    corpus = files_corpus(config.text) if config.text else default_corpus()
    ready = None if config.tokenizer == "bpe" else _untrained(config.tokenizer)
    named = f"bpe {config.vocabulary}" if ready is None else ready.fingerprint
    key = hashlib.sha256(f"{VERSION}\0{corpus.identity}\0{named}\0{config.held_out}".encode()).hexdigest()
    folder = cache / key[:16]
    if not (folder / "text.json").exists():
        with disk_errors(folder):
            cache.mkdir(parents=True, exist_ok=True)
            with locked_directory(folder, folder):
                _make(folder, config, corpus, ready, progress)
    described = read_object(folder / "text.json")
    made = ready or vocabularies.given(folder)
    train, held_out = (
        open_tokens(folder / f"{name}.tokens", made.size) if described.get(name) else np.zeros(0, np.uint16)
        for name in ("train", "held-out")
    )
    identity = {"text": key, "tokenizer": made.fingerprint, "vocabulary": str(made.size)}
    return TokenizedText(made, train, held_out, int(described["bytes"]), identity)


def _make(folder: Path, config: DataConfig, corpus: Corpus, ready: Vocabulary | None, progress: Progress) -> None:
    documents = corpus.documents(progress)
    if not any(document.size for document in documents):
        raise ModelError("the text is empty", "give files with text in them as data.text")
    train, held_out = split(documents, config.held_out)
    made = ready or _trained(train, config.vocabulary, progress)
    counts = {}
    for name, part in (("train", train), ("held-out", held_out)):
        chunks = _Counted(_encoded(part, made, progress, f"Tokenizing ({name})"))
        write_durably(folder / f"{name}.tokens", chunks)
        counts[name] = chunks.nbytes // np.dtype(token_dtype(made.size)).itemsize
    write_durably(folder / "tokenizer.json", [made.tokenizer.to_str(pretty=False).encode()])
    described = {"corpus": corpus.identity, "bytes": sum(each.size for each in documents), **counts}
    write_durably(folder / "text.json", [json_bytes(described)])
    sync_directory(folder)


def vocabulary_size(config: DataConfig) -> int:
    """Tokens of the tokenizer that a config asks for.

    Raises:
        ModelError: there is no such tokenizer.
    """
    return config.vocabulary if config.tokenizer == "bpe" else _untrained(config.tokenizer).size


class _Counted:
    """Chunks, and how many bytes they were."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self.nbytes = chunks, 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.nbytes += len(chunk)
            yield chunk


def _untrained(name: str) -> Vocabulary:
    return vocabularies.of_bytes() if name == "bytes" else vocabularies.given(name)


def _trained(part: Part, size: int, progress: Progress) -> Vocabulary:
    def texts() -> Iterator[str]:
        left = TRAINED_ON
        for document, begin, end in part:
            for piece in document.pieces(begin, end):
                yield piece
                left -= len(piece)
                if left < 0:
                    return

    progress.message(f"Training a tokenizer of {size} tokens")
    made = vocabularies.trained(texts(), size)
    if made.size < size:
        raise ModelError(
            f"the text has only {made.size} different tokens, and {size} are asked for",
            f"give more text, or --set data.vocabulary={made.size}",
        )
    return made


def _encoded(part: Part, made: Vocabulary, progress: Progress, what: str) -> Iterator[bytes]:
    """The ids of every document and the end token after it, as bytes."""
    end = np.asarray([made.end_number], token_dtype(made.size)).tobytes()
    for document, begin, stop in progress.track(part, what):
        pieces = document.pieces(begin, stop)
        found = False
        while batch := list(islice(pieces, _AT_ONCE)):
            for numbers in made.encode(batch):
                found |= len(numbers) > 0
                yield numbers.tobytes()
        if found:
            yield end
