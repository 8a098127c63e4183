"""Texts that every user has, and their cutting into token sequences.

Calibration and evaluation must not share text: `default_text` (the language's help pages) is for calibration, and
`heldout_text` (docstrings of the standard library) for judging. Both come with Python itself and need no download.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from octavo.base.errors import ModelError

SHORTEST_DOCSTRING = 400
"""Characters below which a docstring says too little to be a passage."""


def default_text() -> str:
    """The default calibration text: the topics of Python's `help()`, about 700,000 characters (PSF license)."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


@cache
def heldout_text() -> str:
    """The default evaluation text: the longer docstrings of the standard library's top-level modules (PSF license).

    They are read with `ast` from the sources in the order of the file names, so nothing is imported or run.
    """
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(path.read_bytes(), filename=str(path))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) >= SHORTEST_DOCSTRING:
                    found.append(text)
    return "\n\n".join(found)


def read_text(text: str | Path | Iterable[Path]) -> str:
    """The text itself: a string as it is, a Path's or several Paths' contents joined by blank lines.

    Raises:
        ModelError: a file is missing, cannot be read, or is not UTF-8.
    """
    if isinstance(text, str):
        return text
    paths = [text] if isinstance(text, Path) else list(text)
    return "\n\n".join(_read(path) for path in paths)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(f"cannot read the text {path} ({error.strerror})", "give a readable text file") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not UTF-8 text (byte {error.start})", "convert it to UTF-8 first") from error


def token_sequences(
    tokenizer: Any,
    text: str | Path | Iterable[Path],
    length: int = 512,
    count: int = 16,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "sequences length"]:
    """Windows of `text` that do not overlap, as token ids.

    Tokens that the tokenizer puts around every text by itself (such as <bos>, or [CLS] and [SEP]) are put around every
    window and count in its length.

    Args:
        tokenizer: a transformers tokenizer.
        text: the text, or where to read it.
        length: tokens a sequence.
        count: how many sequences at most: a short text gives fewer.
        generator: draws the windows at random; without one they are spread evenly over the text, in its order.

    Raises:
        ModelError: the text is shorter than one sequence, or cannot be read.
    """
    around = tokenizer("").input_ids
    leading = [token for token in around if token in (tokenizer.bos_token_id, tokenizer.cls_token_id)][:1]
    trailing = around[len(leading) :]
    body = length - len(around)
    if body < 1 or count < 1:
        raise ModelError(f"{count} sequences of {length} tokens make no sense", "ask for longer or more sequences")
    # verbose: that the whole text is longer than the model's context is no mistake here.
    tokens = torch.tensor(tokenizer(read_text(text), add_special_tokens=False, verbose=False).input_ids)
    windows = len(tokens) // body
    if windows == 0:
        raise ModelError(
            f"the text has {len(tokens)} tokens and one sequence needs {body}", "give more text or ask for shorter ones"
        )
    count = min(count, windows)
    if generator is None:
        chosen = torch.arange(count) * windows // count
    else:
        chosen = torch.randperm(windows, generator=generator)[:count]
    rows = tokens[: windows * body].view(windows, body)[chosen]
    sides = [torch.tensor(side, dtype=rows.dtype).expand(len(rows), -1) for side in (leading, trailing)]
    return torch.cat([sides[0], rows, sides[1]], dim=1)
