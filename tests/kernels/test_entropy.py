"""Entropy-coded streams: C++ against constriction and plain Python, word for word; no stream leads out of bounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo import kernels
from octavo.base.errors import CheckpointError, FormatError
from octavo.kernels import cpu, entropy
from octavo.kernels.cpu import entropy as native
from octavo.kernels.entropy_streams import LANES, STATELESS, Layout, Machine, Place, Tables, cumulative, trellis_machine
from octavo.kernels.reference import entropy as reference
from octavo.kernels.scale_contexts import FINEST, WIDTHS, contexts
from octavo.kernels.trellis import POLYNOMIALS

needs_native = pytest.mark.skipif(bool(cpu.MISSING), reason=f"the C++ kernels are not built: {cpu.MISSING}")
BACKENDS = [pytest.param(native, marks=needs_native, id="C++"), pytest.param(reference, id="reference")]
SEEDS = st.integers(0, 2**32 - 1)
TRELLIS = Machine(np.array([[0, 2], [2, 0], [1, 3], [3, 1]], np.uint8), np.array([0, 0, 1, 1], np.uint8))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def whole(backend: ModuleType, words: np.ndarray, lengths: np.ndarray, layout: Layout, *rest: object) -> np.ndarray:
    """All rows at once."""
    return backend.decode_rows(words, lengths, layout, *rest, Place.top(layout), False)


def random_tables(rng: np.random.Generator, number: int, longest: int = 120) -> Tables:
    weights, lowest = [], []
    for _ in range(number):
        size = int(rng.integers(2, longest + 1))
        eighths = np.minimum(np.abs(rng.normal(0, rng.uniform(1, 80), size)), 255).astype(int)
        weights.append((2.0 ** (-eighths / 8)).astype(np.float32))
        lowest.append(int(rng.integers(-size, 1)))
    return Tables(weights, np.array(lowest, np.int32))


def draw(rng: np.random.Generator, tables: Tables, number: int, count: int) -> np.ndarray:
    """Integers of one table, likely and unlikely ones."""
    bounds = tables.cumulatives[number].astype(np.int64)
    likely = np.searchsorted(bounds, rng.integers(0, 2**24, count), side="right") - 1
    seen = np.flatnonzero(np.diff(bounds))
    mixed = np.where(rng.random(count) < 0.1, rng.choice(seen, count), likely)
    return (mixed + tables.lowest[number]).astype(np.int16)


def random_grid(
    rng: np.random.Generator, shape: tuple[int, int], machine: Machine = STATELESS
) -> tuple[np.ndarray, Layout, Tables]:
    """Indices of a grid that its tables can code, whatever states they lead through."""
    rows, columns = shape
    spread = int(rng.integers(1, 40))
    row, column = (rng.integers(-spread, spread + 1, n).astype(np.int16) for n in (rows, columns))
    width, extent = int(rng.choice(WIDTHS)), int(rng.integers(1, max(shape) + 3))
    layout = Layout(row, column, width, extent)
    tables = random_tables(rng, layout.contexts * machine.quantizers)
    found = contexts(row, column, width).astype(int)
    indices, states = np.empty(shape, np.int16), np.zeros(columns, np.uint8)
    for i in range(rows):
        number = machine.quantizer[states] * layout.contexts + found[i]
        for table in np.unique(number):
            here = number == table
            indices[i, here] = draw(rng, tables, int(table), int(here.sum()))
        states = machine.next[states, indices[i] & 1]
    return indices, layout, tables


def random_machine(rng: np.random.Generator) -> Machine:
    states = int(rng.integers(2, 9))
    quantizer = rng.integers(0, 2, states).astype(np.uint8)
    return Machine(rng.integers(0, states, (states, 2)).astype(np.uint8), quantizer)


@given(SEEDS, st.integers(2, 1100))
def test_cumulatives_are_those_of_constriction(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    tables = random_tables(rng, 1, size)
    integers = draw(rng, tables, 0, 200)
    counts = np.array([[len(integers)]])
    words, lengths = reference.encode_grouped(integers, counts, tables)
    state, coded = 0, []
    bounds = cumulative(tables.weights[0]).tolist() if tables.weights[0] is not None else []
    for symbol in (integers[::-1] - tables.lowest[0]).tolist():
        left, probability = bounds[symbol], bounds[symbol + 1] - bounds[symbol]
        if state >> 40 >= probability:
            coded.append(state % 2**32)
            state >>= 32
        state = (state // probability << 24) + left + state % probability
    while state:
        coded.append(state % 2**32)
        state >>= 32
    assert words.tolist() == coded
    assert lengths.tolist() == [len(coded)]


@needs_native
@given(SEEDS, st.integers(1, 6), st.integers(1, 9))
def test_cpp_codes_groups_word_for_word(seed: int, number: int, blocks: int) -> None:
    rng = np.random.default_rng(seed)
    tables = random_tables(rng, number, 1100)
    counts = rng.integers(0, 60, (blocks, number)) * rng.integers(0, 2, (blocks, number))
    pieces = [draw(rng, tables, context, int(counts[block, context])) for block, context in np.ndindex(counts.shape)]
    integers = np.concatenate(pieces)
    words, lengths = reference.encode_grouped(integers, counts, tables)
    found, found_lengths = native.encode_grouped(integers, counts, tables)
    np.testing.assert_array_equal(found, words)
    np.testing.assert_array_equal(found_lengths, lengths)
    np.testing.assert_array_equal(native.decode_grouped(words, lengths, counts, tables), integers)
    np.testing.assert_array_equal(reference.decode_grouped(words, lengths, counts, tables), integers)


@needs_native
@given(SEEDS, st.integers(1, 40), st.integers(1, 60))
def test_cpp_codes_grids_word_for_word(seed: int, rows: int, columns: int) -> None:
    assert_agree_on_grids(*random_grid(np.random.default_rng(seed), (rows, columns)))


@needs_native
def test_cpp_codes_grids_word_for_word_on_threads(threads: None) -> None:
    rng = np.random.default_rng(0)
    for rows, columns in ((700, 500), (301, 1027)):
        indices, layout, tables = random_grid(rng, (rows, columns))
        assert_agree_on_grids(indices, Layout(layout.row_scale, layout.column_scale, layout.width, 60), tables)


def assert_agree_on_grids(indices: np.ndarray, layout: Layout, tables: Tables) -> None:
    words, lengths = reference.encode_grid(indices, layout, tables)
    found, found_lengths = native.encode_grid(indices, layout, tables)
    np.testing.assert_array_equal(found, words)
    np.testing.assert_array_equal(found_lengths, lengths)
    np.testing.assert_array_equal(native.decode_grid(words, lengths, layout, tables), indices)
    np.testing.assert_array_equal(reference.decode_grid(words, lengths, layout, tables), indices)


@needs_native
@settings(max_examples=50)
@given(SEEDS, st.integers(1, 12), st.integers(1, 30), st.booleans())
def test_cpp_codes_rows_word_for_word(seed: int, rows: int, columns: int, stateless: bool) -> None:
    rng = np.random.default_rng(seed)
    machine = STATELESS if stateless else random_machine(rng)
    indices, layout, tables = random_grid(rng, (rows, columns), machine)
    words, lengths = reference.encode_rows(indices, layout, tables, machine)
    found, found_lengths = native.encode_rows(indices, layout, tables, machine)
    np.testing.assert_array_equal(found, words)
    np.testing.assert_array_equal(found_lengths, lengths)
    for backend in (native, reference):
        np.testing.assert_array_equal(whole(backend, words, lengths, layout, tables, machine, False), indices)
    positions = whole(reference, words, lengths, layout, tables, machine, True)
    np.testing.assert_array_equal(whole(native, words, lengths, layout, tables, machine, True), positions)


@pytest.mark.parametrize("backend", BACKENDS)
@given(SEEDS, st.integers(1, 12), st.integers(1, 30), st.lists(st.integers(1, 11), max_size=4), st.booleans())
def test_rows_are_decoded_some_at_a_time(
    backend: ModuleType, seed: int, rows: int, columns: int, cuts: list[int], positions: bool
) -> None:
    rng = np.random.default_rng(seed)
    machine = random_machine(rng)
    indices, layout, tables = random_grid(rng, (rows, columns), machine)
    words, lengths = entropy.encode_rows(indices, layout, tables, machine)
    place, found = Place.top(layout), []
    bounds = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
    for first, last in pairwise(bounds):
        part = replace(layout, row_scale=layout.row_scale[first:last])
        more = last < rows
        found.append(backend.decode_rows(words, lengths, part, tables, machine, positions, place, more))
    expected = whole(reference, words, lengths, layout, tables, machine, positions)
    np.testing.assert_array_equal(np.concatenate(found), expected)
    # What comes after the last row is noticed.
    longer, lengths[-1] = np.append(words, np.uint32(1)), lengths[-1] + 1
    with pytest.raises(CheckpointError, match="damaged"):
        whole(backend, longer, lengths, layout, tables, machine, positions)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("states", POLYNOMIALS)
def test_positions_are_the_values_of_a_trellis(backend: ModuleType, states: int) -> None:
    machine = trellis_machine(states)
    indices, layout, tables = random_grid(np.random.default_rng(states), (40, 9), machine)
    words, lengths = backend.encode_rows(indices, layout, tables, machine)
    found = whole(backend, words, lengths, layout, tables, machine, True)
    # Paths begin anew in no block: blocks are of columns.
    expected = kernels.trellis_values(torch.from_numpy(indices), states)
    np.testing.assert_array_equal(found, expected.numpy())


@needs_native
def test_rows_come_back_on_threads_and_take_what_groups_take(threads: None) -> None:
    indices, layout, tables = random_grid(np.random.default_rng(1), (900, 517))
    layout = Layout(layout.row_scale, layout.column_scale, layout.width, 200)
    words, lengths = entropy.encode_rows(indices, layout, tables)
    np.testing.assert_array_equal(entropy.decode_rows(words, lengths, layout, tables), indices)
    grouped, _ = entropy.encode_grid(indices, layout, tables)
    # A block's coders begin with 32 bits each, and end on a whole word; the one coder of a grouped block only ends.
    assert len(grouped) <= len(words) <= len(grouped) + 2 * LANES * len(lengths)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_machine_chooses_the_tables(backend: ModuleType) -> None:
    """By hand: odd indices switch to the second quantizer's table, which knows 7 and 8 alone."""
    layout = Layout(np.zeros(4, np.int16), np.zeros(3, np.int16), 4, 4)
    machine = Machine(np.array([[0, 1], [0, 1]], np.uint8), np.array([0, 1], np.uint8))
    halves = [np.array([1, 1], np.float32)] * (2 * layout.contexts)
    tables = Tables(halves, np.repeat(np.array([2, 7], np.int32), layout.contexts))
    indices = np.array([[2, 3, 3], [3, 8, 7], [7, 2, 8], [7, 2, 3]], np.int16)
    words, lengths = backend.encode_rows(indices, layout, tables, machine)
    np.testing.assert_array_equal(whole(backend, words, lengths, layout, tables, machine, False), indices)
    with pytest.raises(FormatError, match="not in its frequency table"):
        backend.encode_rows(indices[::-1].copy(), layout, tables, machine)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_integer_without_a_code_is_refused(backend: ModuleType) -> None:
    layout = Layout(np.zeros(1, np.int16), np.zeros(2, np.int16), 1, 1)
    tables = Tables([np.ones(3, np.float32)] * FINEST, np.full(FINEST, -1, np.int32))
    none = Tables([None] * FINEST, np.zeros(FINEST, np.int32))
    for wrong, mine in ((2, tables), (-2, tables), (0, none)):
        indices = np.array([[wrong, wrong]], np.int16)
        with pytest.raises(FormatError, match="not in its frequency table"):
            backend.encode_grid(indices, layout, mine)
        with pytest.raises(FormatError, match="not in its frequency table"):
            backend.encode_rows(indices, layout, mine, STATELESS)


@pytest.mark.parametrize("rows", [False, True], ids=["grouped", "rows"])
@given(SEEDS, st.lists(st.tuples(SEEDS, st.integers(0, 2**32 - 1)), max_size=4), st.integers(-3, 3))
def test_damage_is_an_error_or_integers_of_the_tables(
    rows: bool, seed: int, flips: list[tuple[int, int]], longer: int
) -> None:
    rng = np.random.default_rng(seed)
    machine = TRELLIS if rows else STATELESS
    indices, layout, tables = random_grid(rng, (6, 21), machine)
    layout = Layout(layout.row_scale, layout.column_scale, layout.width, 6)
    longest = max(len(w) for w in tables.weights if w is not None)
    tables = Tables([w if rng.random() < 0.9 else None for w in tables.weights], tables.lowest)
    words = rng.integers(0, 2**32, max(0, indices.size // 5 + longer), np.uint32)
    for position, flip in flips:
        if len(words):
            words[position % len(words)] = flip
    lengths = np.array([len(words)])
    found = []
    for backend in (entropy, reference):
        try:
            if rows:
                found.append(whole(backend, words, lengths, layout, tables, machine, False))
            else:
                found.append(backend.decode_grid(words, lengths, layout, tables))
        except CheckpointError:
            found.append(None)
    mine, theirs = found
    assert (mine is None) == (theirs is None)
    if mine is not None and theirs is not None:
        np.testing.assert_array_equal(mine, theirs)
        assert np.abs(mine).max() <= longest


@pytest.mark.parametrize("rows", [False, True], ids=["grouped", "rows"])
def test_every_cut_and_every_changed_word_is_noticed(rows: bool) -> None:
    rng = np.random.default_rng(5)
    indices, layout, tables = random_grid(rng, (8, 30))
    encode, decode = (entropy.encode_rows, entropy.decode_rows) if rows else (entropy.encode_grid, entropy.decode_grid)
    words, lengths = encode(indices, layout, tables)
    for cut in range(len(words)):
        shorter = np.concatenate([words[:cut], words[cut + 1 :]])
        for block, end in enumerate(np.cumsum(lengths)):
            if cut < end:
                fewer = lengths - (np.arange(len(lengths)) == block)
                break
        with pytest.raises(CheckpointError, match="damaged"):
            decode(shorter, fewer, layout, tables)
        changed = words.copy()
        changed[cut] ^= np.uint32(1 << 31 if rows else 1)
        try:
            other = decode(changed, lengths, layout, tables)
        except CheckpointError:
            continue
        assert not np.array_equal(other, indices)


def test_lengths_that_do_not_add_up_are_damage() -> None:
    indices, layout, tables = random_grid(np.random.default_rng(3), (4, 10))
    words, lengths = entropy.encode_grid(indices, layout, tables)
    for wrong in (lengths + 1, lengths[:-1], np.append(lengths, 0), -lengths):
        with pytest.raises(CheckpointError, match="damaged"):
            entropy.decode_grid(words, wrong, layout, tables)
        with pytest.raises(CheckpointError, match="damaged"):
            entropy.decode_rows(words, wrong, layout, tables)


def test_impossible_arguments_are_named() -> None:
    scale = np.zeros(2, np.int16)
    with pytest.raises(FormatError, match="cannot be coded"):
        Layout(scale, scale, 3, 1)
    with pytest.raises(FormatError, match="cannot be coded"):
        Layout(scale[:0], scale, 1, 1)
    with pytest.raises(FormatError, match="too long"):
        Tables([np.ones(2**16, np.float32)], np.zeros(1, np.int32))
    with pytest.raises(FormatError, match="out of its states"):
        Machine(np.array([[0, 1]], np.uint8), np.zeros(1, np.uint8))
    layout, few = Layout(scale, scale, 1, 1), Tables([np.ones(2, np.float32)], np.zeros(1, np.int32))
    with pytest.raises(FormatError, match="1 tables do not fit 48 contexts"):
        entropy.encode_grid(np.zeros((2, 2), np.int16), layout, few)
    with pytest.raises(FormatError, match="do not fit a grid"):
        entropy.encode_rows(np.zeros((2, 3), np.int16), layout, few)
    with pytest.raises(FormatError, match="16 bits"):
        entropy.encode_grouped(np.array([70000]), np.array([[1]]), few)
    with pytest.raises(FormatError, match="are not"):
        entropy.encode_grouped(np.array([1]), np.array([[2]]), few)
    with pytest.raises(FormatError, match="count every context"):
        entropy.encode_grouped(np.array([1]), np.array([[1, 0]]), few)
