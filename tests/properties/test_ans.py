"""The coder of entropy-coded formats: integers come back bit for bit; damage ends in an error or finite weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.base.errors import CheckpointError
from octavo.formats import Importance, parse
from octavo.formats.coding import ans, scale_context
from octavo.formats.entropy_coded import decoded
from octavo.formats.grid_codes import LARGEST
from octavo.formats.tensor import QuantizedTensor

SEEDS = st.integers(0, 2**32 - 1)
ENTRIES = st.binary(min_size=1, max_size=256)
CODED = (
    "grid(step=0.3) separable ans",
    "grid(step=0.3,states=8) separable ans",
    "grid(step=0.4) tensor rms:fp32 ans",
    "cbrt-t(df=5)@4 b64 absmax:bf16 ans",
)


@st.composite
def coded_integers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[ans.Table | None]]:
    """Integers, their contexts and the tables that fit them; some contexts are never used."""
    rng = np.random.default_rng(draw(SEEDS))
    count, number = draw(st.integers(0, 400)), draw(st.sampled_from([1, 4, 12, 48]))
    symmetric = draw(st.booleans())
    contexts = rng.choice(rng.permutation(number)[: rng.integers(1, number + 1)], count).astype(np.uint8)
    integers = np.rint(rng.standard_cauchy(count) * 2.0 ** (contexts / 8)).clip(-LARGEST, LARGEST).astype(np.int32)
    if not symmetric:
        integers = np.abs(integers)
    tables: list[ans.Table | None] = []
    for context in range(number):
        mine = np.abs(integers[contexts == context])
        tables.append(ans.fit_table(np.bincount(mine), symmetric) if len(mine) else None)
    return integers, contexts, tables


def quantized(text: str, shape: tuple[int, int], seed: int = 0) -> QuantizedTensor:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(shape, generator=generator)
    importance = Importance(torch.rand(shape[0], generator=generator), torch.rand(shape[1], generator=generator))
    return parse(text).quantize(weights, importance)


@given(st.lists(st.none() | ENTRIES, min_size=1, max_size=48), st.booleans())
def test_tables_are_read_back_as_written(entries: list[bytes | None], symmetric: bool) -> None:
    tables = [None if e is None else ans.Table(np.frombuffer(e, np.uint8), symmetric) for e in entries]
    packed = ans.pack_tables(tables)
    found = ans.unpack_tables(packed, len(tables), symmetric)
    assert len(packed) <= -(-len(tables) // 8) + sum(2 + len(e) for e in entries if e is not None) + 8
    for table, again in zip(tables, found, strict=True):
        assert (table is None) == (again is None)
        if table is not None and again is not None:
            np.testing.assert_array_equal(table.entries, again.entries)
            assert again.symmetric == symmetric


@given(st.lists(st.none() | st.binary(min_size=1, max_size=9), min_size=1, max_size=12), st.data())
def test_tables_of_a_wrong_length_are_refused(entries: list[bytes | None], data: st.DataObject) -> None:
    packed = ans.pack_tables([None if e is None else ans.Table(np.frombuffer(e, np.uint8)) for e in entries])
    keep = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(CheckpointError, match="damaged"):
        ans.unpack_tables(packed[:keep], len(entries))
    with pytest.raises(CheckpointError, match="damaged"):
        ans.unpack_tables(np.append(packed, np.uint8(0)), len(entries))


@given(coded_integers())
def test_integers_come_back_bit_for_bit(case: tuple[np.ndarray, np.ndarray, list[ans.Table | None]]) -> None:
    integers, contexts, tables = case
    words = ans.encode(integers, contexts, tables)
    np.testing.assert_array_equal(ans.decode(words, contexts, tables), integers)
    symmetric = all(table.symmetric for table in tables if table is not None)
    read = ans.unpack_tables(ans.pack_tables(tables), len(tables), symmetric)
    np.testing.assert_array_equal(ans.decode(words, contexts, read), integers)


@given(coded_integers())
def test_a_block_takes_what_its_tables_say(case: tuple[np.ndarray, np.ndarray, list[ans.Table | None]]) -> None:
    integers, contexts, tables = case
    cost = 0.0
    for context, table in enumerate(tables):
        if table is not None:
            mine = np.abs(integers[contexts == context])
            cost += table.cost(np.bincount(mine, minlength=len(table.entries)))
    bits = 32 * len(ans.encode(integers, contexts, tables))
    # One word is the coder's own state; frequencies of 24 bits are a little off where a table is wide.
    assert bits <= 1.002 * cost + 64
    assert bits >= 0.998 * cost - 32


@given(st.lists(st.integers(0, 2**20), min_size=1, max_size=128).filter(any), st.booleans())
def test_a_fitted_table_costs_little_more_than_the_entropy(counts: list[int], symmetric: bool) -> None:
    number = np.array(counts, dtype=np.int64)
    table = ans.fit_table(number, symmetric)
    number = number[: len(table.entries)]
    share = number[number > 0] / number.sum()
    entropy = float(-(share * np.log2(share)).sum())
    if symmetric:
        entropy += 1 - number[0] / number.sum()  # the sign
    # An entry's eighth of a bit is rounded by a sixteenth at most, and so is their sum.
    assert entropy - 1e-9 <= table.cost(number) / number.sum() <= entropy + 0.125


@pytest.mark.parametrize("text", CODED)
def test_every_truncation_is_an_error(text: str) -> None:
    tensor = quantized(text, (5, 67))
    coded = tensor.parts["coded"]
    for length in range(len(coded)):
        cut = QuantizedTensor(tensor.format, tensor.shape, {**tensor.parts, "coded": coded[:length].clone()})
        with pytest.raises(CheckpointError, match="damaged"):
            cut.dequantize()
    longer = QuantizedTensor(tensor.format, tensor.shape, {**tensor.parts, "coded": torch.cat([coded, coded[:1]])})
    with pytest.raises(CheckpointError, match="damaged"):
        longer.dequantize()


@settings(max_examples=150)
@given(
    st.sampled_from(CODED), st.integers(0, 3), st.lists(st.tuples(SEEDS, st.integers(1, 255)), min_size=1, max_size=4)
)
def test_flipped_bytes_are_an_error_or_finite(text: str, seed: int, flips: list[tuple[int, int]]) -> None:
    tensor = quantized(text, (9, 33), seed)
    coded = tensor.parts["coded"].clone()
    for position, flip in flips:
        coded[position % len(coded)] ^= flip
    assert_error_or_finite(tensor, coded)


@pytest.mark.parametrize("text", CODED)
def test_any_byte_of_the_head_may_be_anything(text: str) -> None:
    tensor = quantized(text, (3, 20))
    for position in range(42):
        for value in (0, 1, 2, 0x7F, 0x80, 0xFF):
            coded = tensor.parts["coded"].clone()
            coded[position] = value
            assert_error_or_finite(tensor, coded)


@given(st.sampled_from(CODED), st.binary(max_size=200))
def test_noise_is_an_error_or_finite(text: str, noise: bytes) -> None:
    tensor = quantized(text, (3, 20))
    assert_error_or_finite(tensor, torch.tensor(list(noise), dtype=torch.uint8))


def assert_error_or_finite(tensor: QuantizedTensor, coded: torch.Tensor) -> None:
    damaged = QuantizedTensor(tensor.format, tensor.shape, {**tensor.parts, "coded": coded})
    try:
        values = decoded(damaged).dequantize()
    except CheckpointError:
        return
    assert values.shape == tensor.shape
    assert bool(values.isfinite().all())


@given(st.integers(1, 40), st.integers(1, 40), SEEDS, st.sampled_from(scale_context.WIDTHS))
def test_contexts_are_in_range_whatever_the_scales(rows: int, columns: int, seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    row, column = (rng.integers(-(2**15), 2**15, n).astype(np.int16) for n in (rows, columns))
    found = scale_context.contexts(row, column, width)
    assert found.shape == (rows, columns)
    assert int(found.max()) < scale_context.FINEST // width
    np.testing.assert_array_equal(found, scale_context.contexts(row, column) // width)


def test_powers_are_exact_shifts_of_four_numbers() -> None:
    quarters = np.arange(-400, 401)
    found = scale_context.power(quarters)
    np.testing.assert_allclose(found, 2.0 ** (quarters / 4), rtol=1e-6)
    np.testing.assert_array_equal(found[4:], 2 * found[:-4])


@given(
    st.integers(2, 512),
    st.floats(0.3, 300),
    st.integers(20, 32),
    st.booleans(),
    st.lists(st.integers(0, 511), max_size=8),
)
def test_the_rarest_integer_of_a_large_tensor_has_a_code(
    size: int, scale: float, octaves: int, symmetric: bool, rare: list[int]
) -> None:
    """Of billions of weights one may have an index that no other has, whatever the others are."""
    counts = (2.0**octaves * np.exp(-np.arange(size) / scale) / scale).astype(np.int64)
    counts[[k % size for k in rare] + [size - 1]] = 1
    counts[0] = 2**octaves
    table = ans.fit_table(counts, symmetric=symmetric)
    found = np.flatnonzero(counts).astype(np.int32)
    integers = np.concatenate([found, -found]) if symmetric else found
    contexts = np.zeros(len(integers), np.uint8)
    words = ans.encode(integers, contexts, [table])
    assert np.array_equal(ans.decode(words, contexts, [table]), integers)
    # No integer takes much more than 20 bits, and the table is as good as its counts but for thousandths of a bit.
    assert 32 * len(words) < 23 * len(integers) + 64
    weights = counts / counts.sum()
    entropy = -(weights[weights > 0] * np.log2(weights[weights > 0])).sum() + symmetric * (1 - weights[0])
    assert table.cost(counts) / counts.sum() < entropy + 0.005
