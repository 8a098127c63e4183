"""Columns of unequal width: C++ against numpy, and by hand; nothing is read or written out of bounds."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.base.errors import FormatError
from octavo.formats import grid_resident
from octavo.kernels import column_codes, cpu
from octavo.kernels.column_widths import WIDTHS, Far, row_bytes
from octavo.kernels.cpu import column_codes as native
from octavo.kernels.reference import column_codes as reference

needs_native = pytest.mark.skipif(bool(cpu.MISSING), reason=f"the C++ kernels are not built: {cpu.MISSING}")
BACKENDS = [pytest.param(native, marks=needs_native, id="C++"), pytest.param(reference, id="reference")]


def random_codes(seed: int, rows: int, columns: int) -> np.ndarray:
    """Columns of very different spread, some of them zero."""
    rng = np.random.default_rng(seed)
    spread = 2.0 ** rng.integers(-2, 11, columns)
    return np.clip(rng.standard_t(3, (rows, columns)) * spread, -32767, 32767).astype(np.int16)


def packed(backend: ModuleType, codes: np.ndarray, order: np.ndarray, groups: list[tuple[int, int]], apart: int) -> Any:
    outs, far = [np.empty((len(codes), row_bytes(*group)), np.uint8) for group in groups], Far.room(apart)
    backend.pack_columns(codes, order, groups, outs, far)
    return outs, far


@needs_native
@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 700), st.integers(1, 40))
def test_cpp_packs_byte_for_byte(seed: int, rows: int, columns: int) -> None:
    codes = random_codes(seed, rows, columns)
    counts = reference.count_widths(codes)
    np.testing.assert_array_equal(native.count_widths(codes), counts)
    assert (counts.sum(1) == rows).all()
    rng = np.random.default_rng(seed)
    order = rng.permutation(columns).astype(np.int32)
    # Any widths in any order, so that many codes are apart.
    sizes = np.diff([0, *sorted(rng.integers(0, columns + 1, 3).tolist()), columns]).tolist()
    groups = [(int(rng.choice(WIDTHS)), size) for size in sizes]
    place = np.repeat([WIDTHS.index(width) for width, _ in groups], sizes)
    apart = int(sum(rows - counts[column, : k + 1].sum() for column, k in zip(order, place, strict=True)))
    (mine, far), (theirs, expected) = (packed(each, codes, order, groups, apart) for each in (native, reference))
    found = [*mine, far.row, far.column, far.code]
    for own, other in zip(found, [*theirs, expected.row, expected.column, expected.code], strict=True):
        np.testing.assert_array_equal(own, other)
    for backend in (native, reference):
        for wrong in {apart + 1, max(0, apart - 1)} - {apart}:
            with pytest.raises(FormatError, match="codes apart"):
                packed(backend, codes, order, groups, wrong)


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 40))
def test_resident_indices_come_back(seed: int, rows: int, columns: int) -> None:
    codes = random_codes(seed, rows, columns)
    parts = grid_resident.narrowed(codes)
    parts |= {"row_step": torch.zeros(rows), "column_step": torch.zeros(columns)}
    np.testing.assert_array_equal(grid_resident.widened(parts).numpy(), codes)


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend: ModuleType) -> None:
    """Columns 1 and 2 with two bits, in which 1 is 3 and -1 is 1; column 0 with none."""
    codes = np.array([[0, 1, -1], [5, 0, 2]], np.int16)
    assert backend.count_widths(codes)[:, :4].tolist() == [[1, 0, 0, 1], [1, 1, 0, 0], [0, 1, 1, 0]]
    (two, none), far = packed(backend, codes, np.array([2, 1, 0], np.int32), [(2, 2), (0, 1)], 2)
    assert two.tolist() == [[1 | 3 << 2, 0], [2 | 2 << 2, 0]]
    assert none.shape == (2, 0)
    assert (far.row.tolist(), far.column.tolist(), far.code.tolist()) == ([1, 1], [0, 2], [5, 2])


CODES = np.zeros((4, 3), np.int16)
ORDER = np.arange(3, dtype=np.int32)


@pytest.mark.parametrize(
    ("order", "groups"),
    [
        (ORDER[:2], [(4, 2)]),
        (np.array([0, 1, 1], np.int32), [(4, 3)]),
        (np.array([0, 1, 3], np.int32), [(4, 3)]),
        (ORDER, [(4, 2)]),
        (ORDER, [(4, 2), (8, 2)]),
        (ORDER, [(9, 3)]),
    ],
)
def test_groups_that_do_not_fit_are_refused(order: np.ndarray, groups: list[tuple[int, int]]) -> None:
    with pytest.raises(FormatError, match=r"fit|width"):
        column_codes.pack_columns(CODES, order, groups, 0)


def test_only_matrices_of_int16_are_packed() -> None:
    for wrong in (CODES[0], CODES.astype(np.int32), CODES.T):
        with pytest.raises(FormatError, match="no matrix"):
            column_codes.count_widths(wrong)


@needs_native
@pytest.mark.parametrize(
    "wrong",
    [
        {"order": ORDER[:2].copy()},
        {"order": np.array([0, 1, 3], np.int32)},
        {"order": np.array([0, 1, -1], np.int32)},
        {"groups": [(4, 2, np.zeros((4, 4), np.uint8))]},
        {"groups": [(4, 4, np.zeros((4, 4), np.uint8))]},
        {"groups": [(9, 3, np.zeros((4, 9), np.uint8))]},
        {"groups": [(4, 3, np.zeros((3, 4), np.uint8))]},
        {"groups": [(4, 3, np.zeros((4, 3), np.uint8))]},
        {"groups": [(16, 3, np.zeros((4, 5), np.uint8))]},
        {"far_row": np.zeros(1, np.int32)},
        {"far_code": np.zeros(1, np.int16)},
    ],
)
def test_the_binding_checks_every_size(wrong: dict[str, Any]) -> None:
    far = {"far_row": np.empty(0, np.int32), "far_column": np.empty(0, np.int32), "far_code": np.empty(0, np.int16)}
    right = {"codes": CODES, "order": ORDER, "groups": [(4, 3, np.zeros((4, 4), np.uint8))], **far, "threads": 1}
    assert cpu._native.pack_columns(**right)
    with pytest.raises(ValueError, match=r"fit|such|apart"):
        cpu._native.pack_columns(**{**right, **wrong})
    with pytest.raises(ValueError, match="fit"):
        cpu._native.count_widths(CODES, np.empty((3, 8), np.int64), 1)
