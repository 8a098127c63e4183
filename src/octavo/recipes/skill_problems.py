"""Problems in characters that have one answer: brackets to be closed, and letters to be moved on.

Each has twelve characters, of which some are the answer, and each kind has easy and hard cases, frequent and rare ones.
So a kind is not learned at one stroke: its loss is a sum over many small skills that are found one after another, which
is smooth (arXiv 2303.13506).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int64

LETTERS = "abcdefghijklmnopqrstuvwxyz"
OPENING, CLOSING = "([{<", ")]}>"
ALPHABET = LETTERS + OPENING + CLOSING + "+=:;"
ITEM = 12

Items = Int64[np.ndarray, "items 12"]

CODE = {letter: number for number, letter in enumerate(ALPHABET)}


def zipf(count: int, exponent: float = 1.0) -> Float[np.ndarray, " count"]:
    """How often each of some things comes by Zipf's law, the most frequent first; they add up to one."""
    weights = np.arange(1, count + 1) ** -exponent
    return weights / weights.sum()


def column(count: int, letter: str) -> Int64[np.ndarray, "count 1"]:
    """The same letter for each item."""
    return np.full((count, 1), CODE[letter])


def brackets(random: np.random.Generator, count: int) -> Items:
    """Six brackets of which one closes what is open then, `=`, and four that close the rest: `([](<{=}>));`."""
    kinds = random.integers(0, len(OPENING), (count, 5))
    opening, closing = (np.array([CODE[each] for each in every])[kinds] for every in (OPENING, CLOSING))
    # The closing one comes after one to five that open, and closes the last of them.
    place = random.integers(1, 6, count)
    rows = np.arange(count)
    shown, left = np.empty((count, 6), np.int64), np.empty((count, 4), np.int64)
    for number in range(6):
        before = np.minimum(number - (number > place), 4)
        shown[:, number] = np.where(number == place, closing[rows, place - 1], opening[rows, before])
    for number in range(4):
        # Without the one that is closed, the last first.
        rest = 3 - number
        left[:, number] = closing[rows, rest + (rest >= place - 1)]
    return np.concatenate([shown, column(count, "="), left, column(count, ";")], 1)


def sums(random: np.random.Generator, count: int) -> Items:
    """A letter, and three times how far to move on, from b for one place, and where that leads: `=q+br+ct+dw;`.

    How far follows Zipf's law, and after z comes a.
    """
    steps = random.choice(np.arange(1, len(LETTERS)), (count, 3), p=zipf(len(LETTERS) - 1))
    found = np.repeat(column(count, "+"), ITEM, axis=1)
    found[:, 0], found[:, -1] = CODE["="], CODE[";"]
    found[:, 1] = random.integers(0, len(LETTERS), count)
    found[:, 3:-1:3] = steps
    found[:, 4:-1:3] = (found[:, 1:2] + steps.cumsum(1)) % len(LETTERS)
    return found


PROBLEMS = {"brackets": brackets, "sums": sums}


def answers(items: Items, kind: str) -> Bool[np.ndarray, "items 12"]:
    """Which characters of problems of a kind are the answer."""
    found = np.zeros(items.shape, bool)
    if kind == "brackets":
        found[:, 7:-1] = True
    else:
        found[:, 4:-1:3] = True
    return found


def withheld(items: Items) -> Bool[np.ndarray, " items"]:
    """The eighth of all problems that training never shows."""
    place = np.array([pow(31, ITEM - 1 - number, 1_000_003) for number in range(ITEM)])
    return (items * place).sum(1) % 1_000_003 % 8 == 0


def draw(kind: str, random: np.random.Generator, count: int, unseen: bool) -> Items:
    """Problems of a kind: of those that are withheld, or of all others."""
    found = PROBLEMS[kind](random, count)
    while (wrong := withheld(found) != unseen).any():
        found[wrong] = PROBLEMS[kind](random, int(wrong.sum()))
    return found
