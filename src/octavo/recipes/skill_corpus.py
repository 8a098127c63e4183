"""A text of two skills in characters: random facts to be remembered, and problems to be worked out.

Every item has twelve characters. A fact is `qhrtya:kzvo;`, a random key and its random value; how often facts come
follows Zipf's law, and nothing but having seen one helps with it. A problem is new each time, and of three kinds:
brackets to be closed in the order of a stack, `([](<{=}>));`, letters to be said backwards, `qhrty+ytrhq;`, and letters
to be moved on by one, `qhrtz-risua;`. Values, closing brackets, and the letters after the sign are the answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from octavo.training.seeding import seed_of

LETTERS = "abcdefghijklmnopqrstuvwxyz"
OPENING, CLOSING = "([{<", ")]}>"
ALPHABET = LETTERS + OPENING + CLOSING + "+-=:;"
ITEM = 12
KEY, VALUE = 6, 4
"""Letters of a fact's key and of its value."""

TEXT, KNOWLEDGE, REASONING = "text", "knowledge", "reasoning"
KINDS = (KNOWLEDGE, "brackets", "backwards", "onwards")
"""What an item can be; all but the first are reasoning."""

_CODE = {letter: number for number, letter in enumerate(ALPHABET)}


def _coded(text: str) -> np.ndarray:
    return np.array([_CODE[letter] for letter in text], np.int64)


@dataclass(frozen=True)
class SkillCorpus:
    """The text, without end; items are drawn by number, the same for the same seed.

    Attributes:
        facts: how many there are.
        share: of items that are facts.
        seed: of the facts and of the order.
        exponent: of Zipf's law; 0 for facts that are all as frequent.
    """

    facts: int
    share: float
    seed: int = 0
    exponent: float = 1.0

    @cached_property
    def table(self) -> Int64[np.ndarray, "facts 12"]:
        """All facts, the most frequent first; no two have the same key."""
        random = np.random.default_rng(seed_of(self.seed, "facts"))
        keys = random.choice(len(LETTERS) ** KEY, self.facts, replace=False, shuffle=True)
        digits = [keys // len(LETTERS) ** place % len(LETTERS) for place in range(KEY)]
        values = random.integers(0, len(LETTERS), (self.facts, VALUE))
        colon, end = (np.full((self.facts, 1), _CODE[letter]) for letter in ":;")
        return np.concatenate([np.stack(digits, 1), colon, values, end], 1)

    @cached_property
    def frequencies(self) -> Float[np.ndarray, " facts"]:
        """How often each fact comes, of all facts."""
        weights = np.arange(1, self.facts + 1) ** -self.exponent
        return weights / weights.sum()

    def exposures(self, characters: float) -> Float[np.ndarray, " facts"]:
        """How often each fact is expected in a text of so many characters."""
        return self.frequencies * characters / ITEM * self.share

    def draw(self, purpose: str, index: int, items: int) -> tuple[np.ndarray, np.ndarray]:
        """Items [items, 12] as numbers of letters, and the kind of each."""
        random = np.random.default_rng(seed_of(self.seed, f"items for {purpose}", index))
        kinds = np.where(random.random(items) < self.share, 0, random.integers(1, len(KINDS), items))
        found = np.empty((items, ITEM), np.int64)
        ranks = np.searchsorted(self._cumulative, random.random(items)).clip(max=self.facts - 1)
        found[kinds == 0] = self.table[ranks[kinds == 0]]
        for kind, make in enumerate((_brackets, _backwards, _onwards), 1):
            found[kinds == kind] = make(random, int((kinds == kind).sum()))
        return found, kinds

    @cached_property
    def _cumulative(self) -> np.ndarray:
        return np.cumsum(self.frequencies)


def answer_mask(kinds: np.ndarray) -> np.ndarray:
    """Which characters of items are the answer: [items, 12]."""
    spans = np.zeros((len(KINDS), ITEM), bool)
    for kind, start in enumerate((KEY + 1, 7, 6, 6)):
        spans[kind, start : ITEM - 1] = True
    return spans[kinds]


class SkillWindows:
    """Batches of whole items for the trainer; each window begins with the end of an item."""

    def __init__(self, corpus: SkillCorpus, items: int, batch: int, purpose: str = "training") -> None:
        self._corpus, self._items, self._batch, self._purpose = corpus, items, batch, purpose

    @property
    def tokens(self) -> int:
        return self._batch * self._items * ITEM

    def batch(self, index: int) -> dict[str, Tensor]:
        """`tokens`: [batch, 12 · items + 1]; `kinds`: [batch, items]."""
        found, kinds = self._corpus.draw(self._purpose, index, self._batch * self._items)
        text = found.reshape(self._batch, self._items * ITEM)
        ends = np.full((self._batch, 1), _CODE[";"])
        tokens = torch.from_numpy(np.concatenate([ends, text], 1))
        return {"tokens": tokens, "kinds": torch.from_numpy(kinds.reshape(self._batch, self._items))}


def _column(count: int, letter: str) -> np.ndarray:
    return np.full((count, 1), _CODE[letter])


def _brackets(random: np.random.Generator, count: int) -> np.ndarray:
    """Six brackets of which one closes what is open then, `=`, and four that close the rest."""
    kinds = random.integers(0, len(OPENING), (count, 5))
    opening, closing = _coded(OPENING)[kinds], _coded(CLOSING)[kinds]
    # The closing one comes after one to five that open, and closes the last of them.
    place = random.integers(1, 6, count)
    rows = np.arange(count)
    shown, left = np.empty((count, 6), np.int64), np.empty((count, 4), np.int64)
    for column in range(6):
        before = np.minimum(column - (column > place), 4)
        shown[:, column] = np.where(column == place, closing[rows, place - 1], opening[rows, before])
    for column in range(4):
        # Without the one that is closed, the last first.
        rest = 3 - column
        left[:, column] = closing[rows, rest + (rest >= place - 1)]
    return np.concatenate([shown, _column(count, "="), left, _column(count, ";")], 1)


def _backwards(random: np.random.Generator, count: int) -> np.ndarray:
    letters = random.integers(0, len(LETTERS), (count, 5))
    return np.concatenate([letters, _column(count, "+"), letters[:, ::-1], _column(count, ";")], 1)


def _onwards(random: np.random.Generator, count: int) -> np.ndarray:
    letters = random.integers(0, len(LETTERS), (count, 5))
    return np.concatenate([letters, _column(count, "-"), (letters + 1) % len(LETTERS), _column(count, ";")], 1)
