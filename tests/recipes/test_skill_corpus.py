"""The text of two skills: answers are right, facts keep their frequency, problems are new, batches repeat."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from octavo.recipes.skill_corpus import KINDS, SkillCorpus, SkillWindows, answer_mask
from octavo.recipes.skill_problems import ALPHABET, CLOSING, ITEM, LETTERS, OPENING, PROBLEMS, draw, withheld


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


def led_to(text: str) -> str:
    """Where a letter is led by those after each sign."""
    first, *rest = text.removeprefix("=").split("+")
    place, found = LETTERS.index(first), ""
    for step, _ in rest:
        place = (place + LETTERS.index(step)) % len(LETTERS)
        found += LETTERS[place]
    return found


def test_every_answer_is_right_and_chosen() -> None:
    items, kinds = SkillCorpus(facts=50, share=0.4).draw("training", 0, 400)
    known = {}
    for row, kind, mask in zip(items, kinds, answer_mask(items, kinds), strict=True):
        text = "".join(ALPHABET[n] for n in row)
        chosen = "".join(letter for letter, part in zip(text, mask, strict=True) if part)
        assert len(text) == ITEM
        assert text[-1] == ";"
        match KINDS[kind]:
            case "knowledge":
                key, value = text[:-1].split(":")
                assert known.setdefault(key, value) == chosen == value
            case "brackets":
                problem, answer = text[:-1].split("=")
                assert answer == chosen == closed(problem)
            case _:
                assert chosen == led_to(text[:-1])
                assert len(chosen) == 3
    assert set(kinds.tolist()) == set(range(len(KINDS)))


def test_steps_of_sums_follow_zipf(generator: torch.Generator) -> None:
    found = draw("sums", np.random.default_rng(generator.initial_seed()), 20_000, unseen=False)
    counted = np.bincount(found[:, 3], minlength=26)
    assert counted[0] == 0
    assert counted[1] / counted[10] == pytest.approx(10, rel=0.15)


@pytest.mark.parametrize("kind", PROBLEMS)
def test_problems_that_are_judged_on_are_never_trained_on(kind: str) -> None:
    shown, asked = (draw(kind, np.random.default_rng(seed), 3000, unseen=bool(seed)) for seed in (0, 1))
    assert not withheld(shown).any()
    assert withheld(asked).all()
    assert not set(map(bytes, shown)) & set(map(bytes, asked))
    every = PROBLEMS[kind](np.random.default_rng(2), 20_000)
    assert withheld(every).mean() == pytest.approx(1 / 8, abs=0.02)


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


def test_evaluation_asks_known_facts_and_withheld_problems() -> None:
    corpus = SkillCorpus(facts=30, share=0.5)
    facts = {text for text, kind in texts(corpus, 4000) if kind == "knowledge"}
    assert {text for text, kind in texts(corpus, 200, "evaluation") if kind == "knowledge"} <= facts
    for unseen in (False, True):
        batch = SkillWindows(corpus, 4, 50, "evaluation", unseen).batch(0)
        items = batch["tokens"][:, 1:].reshape(-1, ITEM).numpy()
        assert (withheld(items[batch["kinds"].flatten().numpy() > 0]) == unseen).all()


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
