"""A text of two skills in characters: random facts to be remembered, and problems to be worked out.

Every item has twelve characters. A fact is `qhrtya:kzvo;`, a random key and its random value; how often facts come
follows Zipf's law, and nothing but having seen one helps with it. Problems (octavo.recipes.skill_problems) are new each
time; those that are judged on are withheld from training.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from octavo.recipes.skill_problems import CODE, ITEM, LETTERS, PROBLEMS, answers, column, draw, zipf
from octavo.training.seeding import seed_of

KEY, VALUE = 6, 4
"""Letters of a fact's key and of its value."""

KNOWLEDGE = "knowledge"
KINDS = (KNOWLEDGE, *PROBLEMS)
"""What an item can be; all but the first are reasoning."""


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
        return np.concatenate([np.stack(digits, 1), column(self.facts, ":"), values, column(self.facts, ";")], 1)

    @cached_property
    def frequencies(self) -> Float[np.ndarray, " facts"]:
        """How often each fact comes, of all facts."""
        return zipf(self.facts, self.exponent)

    def exposures(self, characters: float) -> Float[np.ndarray, " facts"]:
        """How often each fact is expected in a text of so many characters."""
        return self.frequencies * characters / ITEM * self.share

    def draw(self, purpose: str, index: int, items: int, unseen: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Items [items, 12] as numbers of letters, and the kind of each.

        Args:
            purpose: text of another purpose is another.
            index: of the batch.
            items: how many.
            unseen: whether problems are of those that are withheld, or of the others.
        """
        random = np.random.default_rng(seed_of(self.seed, f"items for {purpose}", index))
        kinds = np.where(random.random(items) < self.share, 0, random.integers(1, len(KINDS), items))
        found = np.empty((items, ITEM), np.int64)
        ranks = np.searchsorted(self._cumulative, random.random(items)).clip(max=self.facts - 1)
        found[kinds == 0] = self.table[ranks[kinds == 0]]
        for number, kind in enumerate(PROBLEMS, 1):
            found[kinds == number] = draw(kind, random, int((kinds == number).sum()), unseen)
        return found, kinds

    @cached_property
    def _cumulative(self) -> np.ndarray:
        return np.cumsum(self.frequencies)


def answer_mask(items: Int64[np.ndarray, "items 12"], kinds: np.ndarray) -> Bool[np.ndarray, "items 12"]:
    """Which characters of items are the answer: of a fact its value."""
    found = np.zeros(items.shape, bool)
    found[kinds == 0, KEY + 1 : -1] = True
    for number, kind in enumerate(PROBLEMS, 1):
        found[kinds == number] = answers(items[kinds == number], kind)
    return found


class SkillWindows:
    """Batches of whole items for the trainer; each window begins with the end of an item."""

    def __init__(
        self, corpus: SkillCorpus, items: int, batch: int, purpose: str = "training", unseen: bool = False
    ) -> None:
        self._corpus, self._items, self._batch, self._purpose = corpus, items, batch, purpose
        self._unseen = unseen

    @property
    def tokens(self) -> int:
        return self._batch * self._items * ITEM

    def batch(self, index: int) -> dict[str, Tensor]:
        """`tokens`: [batch, 12 · items + 1]; `kinds`: [batch, items]."""
        found, kinds = self._corpus.draw(self._purpose, index, self._batch * self._items, self._unseen)
        text = found.reshape(self._batch, self._items * ITEM)
        ends = np.full((self._batch, 1), CODE[";"])
        tokens = torch.from_numpy(np.concatenate([ends, text], 1))
        return {"tokens": tokens, "kinds": torch.from_numpy(kinds.reshape(self._batch, self._items))}
