"""Tokenizers: of single bytes, trained on the text, or given."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from octavo.base.errors import ModelError
from octavo.training.sources import token_dtype

END = "<|end|>"
"""The token between documents, of tokenizers that are made here; number 0."""

KNOWN_ENDS = (END, "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]")
"""What a given tokenizer may call it."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A tokenizer, and what separates documents.

    Attributes:
        tokenizer: texts to numbers.
        end: the token that separates documents.
        plain: whether the numbers of a text are its bytes.
    """

    tokenizer: Tokenizer
    end: str
    plain: bool = False

    @property
    def size(self) -> int:
        """Tokens, unused numbers included."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def end_number(self) -> int:
        number = self.tokenizer.token_to_id(self.end)
        assert number is not None
        return number

    @property
    def fingerprint(self) -> str:
        """Differs where the tokenizer does."""
        return hashlib.sha256(f"{self.end}\0{self.tokenizer.to_str(pretty=False)}".encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The numbers of each text, as they are stored."""
        dtype = token_dtype(self.size)
        if self.plain:
            return [np.frombuffer(text.encode(), np.uint8).astype(dtype) for text in texts]
        found = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, dtype) for encoding in found]


def of_bytes() -> Vocabulary:
    """256 tokens: each byte is its own number, but zero, which no text has, is the end of a document."""
    numbers = {letter: byte for byte, letter in _letters().items() if byte}
    return replace(_made(Tokenizer(models.BPE(vocab={END: 0, **numbers}, merges=[]))), plain=True)


def trained(texts: Iterable[str], size: int) -> Vocabulary:
    """Byte-level byte-pair encoding (Sennrich et al., 2015, https://arxiv.org/abs/1508.07909), trained on texts."""
    made = _made(Tokenizer(models.BPE()))
    trainer: Any = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.tokenizer.train_from_iterator(texts, trainer)
    return made


def given(path: str | Path) -> Vocabulary:
    """A tokenizer.json, or that of a folder.

    Raises:
        ModelError: there is none, it is damaged, or it has no token that ends documents.
    """
    file = Path(path).expanduser()
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise ModelError(f"there is no tokenizer {file}", "give bytes, bpe, a tokenizer.json or a folder with one")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing narrower.
        raise ModelError(f"{file} is no tokenizer ({error})", "fetch it again") from error
    end = next(
        (end for end in (*_configured(file.parent), *KNOWN_ENDS) if tokenizer.token_to_id(end) is not None), None
    )
    if end is None:
        raise ModelError(f"{file} has no token that ends documents", f"add one of {', '.join(KNOWN_ENDS)}")
    return Vocabulary(tokenizer, end)


def _made(tokenizer: Tokenizer) -> Vocabulary:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # In a text, what looks like the end token is text.
    tokenizer.encode_special_tokens = True
    tokenizer.add_special_tokens([END])
    return Vocabulary(tokenizer, END)


def _letters() -> dict[int, str]:
    """The printable letter that stands for each byte in byte-level tokenizers (GPT-2's table)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def _configured(folder: Path) -> list[str]:
    """The end token that tokenizer_config.json names."""
    try:
        named = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("eos_token")
    except (OSError, ValueError, AttributeError):
        return []
    named = named.get("content") if isinstance(named, dict) else named
    return [named] if isinstance(named, str) else []
