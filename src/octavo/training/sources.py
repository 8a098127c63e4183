"""Where batches come from. A batch is a pure function of its index, so that a run's place in the data is its step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from octavo.base.errors import ModelError
from octavo.training.seeding import generator_of


class Source(Protocol):
    """Endless micro-batches."""

    @property
    def tokens(self) -> int:
        """What a batch counts, for instance the tokens that are predicted."""
        ...

    def batch(self, index: int) -> Mapping[str, Tensor]:
        """Batch `index`, from 0 on; the same whenever and by whomever it is asked for."""
        ...


class TokenWindows:
    """Windows of a long text, each once an epoch, in an order that the seed and the epoch decide.

    Windows overlap by one token, so that every token but the first is predicted once an epoch. They are packed: one may
    hold the end of a document and the beginning of others.

    Args:
        tokens: ids, in memory or memory-mapped (uint16 or uint32).
        length: tokens that a window predicts.
        batch: windows a batch.
        seed: of the order; None for the order of the text, as evaluations want it.

    Raises:
        ModelError: the text is shorter than a window.
    """

    def __init__(self, tokens: np.ndarray, length: int, batch: int, seed: int | None = 0) -> None:
        self._tokens, self._length, self._batch, self._seed = tokens, length, batch, seed
        self.windows = (len(tokens) - 1) // length
        if self.windows < 1:
            raise ModelError(
                f"the text has {len(tokens)} tokens, and one sequence needs {length + 1}",
                "give more text, or a smaller data.length",
            )
        self._order = lru_cache(maxsize=2)(self._permutation)

    @property
    def tokens(self) -> int:
        return self._batch * self._length

    def batch(self, index: int) -> dict[str, Int64[Tensor, "batch length"]]:
        """`tokens`: [batch, length + 1]."""
        rows = []
        for place in range(index * self._batch, (index + 1) * self._batch):
            epoch, place = divmod(place, self.windows)
            start = int(self._order(epoch)[place]) * self._length
            rows.append(self._tokens[start : start + self._length + 1])
        return {"tokens": torch.from_numpy(np.stack(rows).astype(np.int64))}

    def _permutation(self, epoch: int) -> Int64[Tensor, " windows"]:
        if self._seed is None:
            return torch.arange(self.windows)
        return torch.randperm(self.windows, generator=generator_of(self._seed, "order", epoch))


def open_tokens(path: str | Path, vocabulary: int) -> np.ndarray:
    """Memory-map a file of token ids: 16 bits each if the vocabulary lets them, else 32.

    Raises:
        ModelError: the file is missing or empty.
    """
    try:
        return np.memmap(path, dtype=token_dtype(vocabulary), mode="r")
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot map the tokens in {path} ({error})", "remove it, and it is made again") from error


def token_dtype(vocabulary: int) -> type[np.uint16] | type[np.uint32]:
    """What ids of a vocabulary are stored as."""
    return np.uint16 if vocabulary <= 1 << 16 else np.uint32
