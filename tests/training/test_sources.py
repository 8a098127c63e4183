"""Sources: a batch is a function of its index, and an epoch gives every window once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.base.errors import ModelError
from octavo.training import TokenWindows
from octavo.training.sources import open_tokens, token_dtype


@given(tokens=st.integers(10, 90), length=st.integers(1, 9), batch=st.integers(1, 5), seed=st.integers(0, 9))
def test_an_epoch_gives_every_window_once(tokens: int, length: int, batch: int, seed: int) -> None:
    source = TokenWindows(np.arange(tokens, dtype=np.uint16), length, batch, seed)
    rows = torch.cat([source.batch(index)["tokens"] for index in range(2 * source.windows)])
    assert rows.shape == (2 * source.windows * batch, length + 1)
    starts = rows[:, 0].tolist()
    assert torch.equal(rows, rows[:, :1] + torch.arange(length + 1))
    for epoch in range(2 * batch):
        found = sorted(starts[epoch * source.windows : (epoch + 1) * source.windows])
        assert found == [window * length for window in range(source.windows)]


def test_batches_are_the_same_whenever_they_are_asked_for() -> None:
    tokens = np.arange(100, dtype=np.uint16)
    one, two = TokenWindows(tokens, 4, 3, 5), TokenWindows(tokens, 4, 3, 5)
    backward = {index: two.batch(index)["tokens"] for index in reversed(range(40))}
    assert all(torch.equal(one.batch(index)["tokens"], backward[index]) for index in range(40))
    other = TokenWindows(tokens, 4, 3, 6)
    assert any(not torch.equal(one.batch(index)["tokens"], other.batch(index)["tokens"]) for index in range(4))


def test_without_a_seed_windows_come_in_order() -> None:
    source = TokenWindows(np.arange(20, dtype=np.uint16), 3, 2, None)
    assert source.batch(1)["tokens"].tolist() == [[6, 7, 8, 9], [9, 10, 11, 12]]
    assert source.tokens == 6


def test_a_short_text_is_refused() -> None:
    with pytest.raises(ModelError, match="has 4 tokens, and one sequence needs 5"):
        TokenWindows(np.arange(4, dtype=np.uint16), 4, 1)


def test_tokens_are_mapped(tmp_path: Path) -> None:
    assert token_dtype(1 << 16) is np.uint16
    assert token_dtype((1 << 16) + 1) is np.uint32
    (tmp_path / "ids").write_bytes(np.asarray([1, 70000], np.uint32).tobytes())
    assert open_tokens(tmp_path / "ids", 100_000).tolist() == [1, 70000]
    (tmp_path / "none").write_bytes(b"")
    for name in ("none", "missing"):
        with pytest.raises(ModelError, match="cannot map"):
            open_tokens(tmp_path / name, 10)
