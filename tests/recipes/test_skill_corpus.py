"""The text of two skills: answers are right, facts keep their frequency, problems are new, batches repeat."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from octavo.recipes.skill_corpus import (
    ALPHABET,
    CLOSING,
    ITEM,
    KINDS,
    LETTERS,
    OPENING,
    SkillCorpus,
    SkillWindows,
    answer_mask,
)


def texts(corpus: SkillCorpus, items: int = 400, purpose: str = "training") -> list[tuple[str, str]]:
    found, kinds = corpus.draw(purpose, 0, items)
    return [("".join(ALPHABET[n] for n in row), KINDS[kind]) for row, kind in zip(found, kinds, strict=True)]


def closed(shown: str) -> str:
    stack: list[str] = []
    for letter in shown:
        if letter in OPENING:
            stack.append(CLOSING[OPENING.index(letter)])
        else:
            assert stack.pop() == letter
    return "".join(reversed(stack))


def test_every_answer_is_right() -> None:
    corpus = SkillCorpus(facts=50, share=0.4)
    known = {}
    seen = set()
    for text, kind in texts(corpus):
        assert len(text) == ITEM
        assert text[-1] == ";"
        seen.add(kind)
        if kind == "knowledge":
            key, value = text[:-1].split(":")
            assert known.setdefault(key, value) == value
            continue
        if kind == "brackets":
            problem, answer = text[:-1].split("=")
            assert answer == closed(problem)
        elif kind == "backwards":
            problem, answer = text[:-1].split("+")
            assert answer == problem[::-1]
        else:
            problem, answer = text[:-1].split("-")
            assert answer == "".join(LETTERS[(LETTERS.index(letter) + 1) % 26] for letter in problem)
    assert seen == set(KINDS)


def test_masks_cover_the_answers() -> None:
    found, kinds = SkillCorpus(facts=50, share=0.4).draw("training", 0, 100)
    for row, mask in zip(found, answer_mask(kinds), strict=True):
        text = "".join(ALPHABET[n] for n in row)
        answer = "".join(letter for letter, chosen in zip(text, mask, strict=True) if chosen)
        assert answer == re.split("[-+=:]", text[:-1])[1]


def test_facts_follow_zipf_and_exposures_add_up() -> None:
    corpus = SkillCorpus(facts=20, share=0.5, exponent=1.0)
    keys = {tuple(row[:6]): rank for rank, row in enumerate(corpus.table.tolist())}
    assert len(keys) == 20
    found, kinds = corpus.draw("training", 0, 40_000)
    ranks = [keys[tuple(row[:6])] for row in found[kinds == 0].tolist()]
    counted = np.bincount(ranks, minlength=20) / len(ranks)
    assert counted == pytest.approx(corpus.frequencies, abs=0.01)
    assert counted[0] / counted[9] == pytest.approx(10, rel=0.2)
    assert corpus.exposures(12_000).sum() == pytest.approx(500)
    assert float((kinds == 0).mean()) == pytest.approx(0.5, abs=0.01)


def test_evaluation_asks_known_facts_and_new_problems() -> None:
    corpus = SkillCorpus(facts=30, share=0.5)
    shown = {text for text, kind in texts(corpus, 4000) if kind == "backwards"}
    asked = {text for text, kind in texts(corpus, 200, "evaluation") if kind == "backwards"}
    assert len(asked & shown) < 0.05 * len(asked)
    facts = {text for text, kind in texts(corpus, 4000) if kind == "knowledge"}
    assert {text for text, kind in texts(corpus, 200, "evaluation") if kind == "knowledge"} <= facts


def test_batches_are_functions_of_their_number() -> None:
    first, again = (SkillWindows(SkillCorpus(facts=30, share=0.5, seed=1), 4, 8) for _ in range(2))
    assert first.tokens == 8 * 48
    batch = first.batch(3)
    assert batch["tokens"].shape == (8, 49)
    assert batch["kinds"].shape == (8, 4)
    assert torch.equal(batch["tokens"], again.batch(3)["tokens"])
    assert not torch.equal(batch["tokens"], again.batch(4)["tokens"])
    other = SkillWindows(SkillCorpus(facts=30, share=0.5, seed=2), 4, 8)
    assert not torch.equal(batch["tokens"], other.batch(3)["tokens"])
