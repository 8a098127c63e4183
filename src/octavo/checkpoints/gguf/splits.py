"""How byte-pair tokenizers split text before they merge, by llama.cpp's names (`tokenizer.ggml.pre`).

Source: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp
"""

from __future__ import annotations

from typing import Any, NamedTuple

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class Splitting(NamedTuple):
    """What tokenizer.json says of a splitting.

    Attributes:
        normalizer: what is done to the text first.
        steps: its pre-tokenizers.
        ignore_merges: whether words that are tokens skip the merges.
        starts: whether a begin token is added where the file says nothing.
    """

    normalizer: dict[str, Any] | None
    steps: list[dict[str, Any]]
    ignore_merges: bool = False
    starts: bool = False


def byte_level(use_regex: bool) -> dict[str, Any]:
    """The step that spells text in bytes, as tokenizer.json writes it; `use_regex`: GPT-2's splits too."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> list[dict[str, Any]]:
    return [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        byte_level(use_regex=False),
    ]


_DIGITS = [{"type": "Digits", "individual_digits": True}, byte_level(use_regex=True)]
SPLITS = {
    "gpt-2": Splitting(None, [byte_level(use_regex=True)]),
    "smollm": Splitting(None, _DIGITS),
    "starcoder": Splitting(None, _DIGITS),
    "llama-bpe": Splitting(None, _split(_CONTRACTIONS + r"\p{N}{1,3}" + _REST), ignore_merges=True, starts=True),
    "qwen2": Splitting({"type": "NFC"}, _split(_CONTRACTIONS + r"\p{N}" + _REST)),
}
