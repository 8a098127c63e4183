"""The entropy coder's binding checks every size and table itself: no call from Python reads or writes out of bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from octavo.kernels import cpu
from octavo.kernels.entropy_streams import LANES

pytestmark = pytest.mark.skipif(bool(cpu.MISSING), reason=f"the C++ kernels are not built: {cpu.MISSING}")

native = cpu._native

ROWS, COLUMNS, EXTENT, BLOCKS, CONTEXTS = 5, 6, 2, 3, 12


def entries(number: int = CONTEXTS) -> dict[str, Any]:
    """Tables of two symbols each."""
    return {
        "cumulative": np.tile(np.array([0, 1 << 23, 1 << 24], np.uint32), number),
        "bounds": 3 * np.arange(number + 1),
        "lowest": np.zeros(number, np.int32),
    }


def grid() -> dict[str, Any]:
    scales = {"row_scale": np.zeros(ROWS, np.int16), "column_scale": np.zeros(COLUMNS, np.int16)}
    return {**scales, "width": 4, "extent": EXTENT, **entries(), "threads": 1}


def machine() -> dict[str, Any]:
    return {"next": np.zeros((1, 2), np.uint8), "quantizer": np.zeros(1, np.uint8)}


def place() -> dict[str, Any]:
    coders = np.zeros((BLOCKS, LANES + 1), np.uint64)
    return {"coders": coders, "states": np.zeros(COLUMNS, np.uint8), "more": False}


def stream() -> dict[str, Any]:
    return {"words": np.ones(30, np.uint32), "lengths": np.array([10, 10, 10])}


def room(largest: int) -> dict[str, Any]:
    words = np.empty(BLOCKS * native.ans_room(largest), np.uint32)
    return {"words": words, "lengths": np.empty(BLOCKS, np.int64)}


def arguments(name: str) -> dict[str, Any]:
    counts = np.full((BLOCKS, CONTEXTS), 2)
    matrix = np.zeros((ROWS, COLUMNS), np.int16)
    flat = np.zeros(counts.sum(), np.int16)
    return {
        "ans_decode_grouped": {**stream(), "counts": counts, **entries(), "out": flat, "threads": 1},
        "ans_decode_grid": {**stream(), **grid(), "out": matrix},
        "ans_decode_rows": {**stream(), **grid(), **machine(), "positions": True, **place(), "out": matrix},
        "ans_encode_grouped": {"integers": flat, "counts": counts, **entries(), **room(24), "threads": 1},
        "ans_encode_grid": {"indices": matrix, **grid(), **room(EXTENT * COLUMNS)},
        "ans_encode_rows": {"indices": matrix, **grid(), **machine(), **room(ROWS * EXTENT)},
    }[name]


DECODERS = ["ans_decode_grouped", "ans_decode_grid", "ans_decode_rows"]
ENCODERS = ["ans_encode_grouped", "ans_encode_grid", "ans_encode_rows"]
GROUPED = ["ans_decode_grouped", "ans_encode_grouped"]
GRIDS = ["ans_decode_grid", "ans_decode_rows", "ans_encode_grid", "ans_encode_rows"]
MACHINES = ["ans_decode_rows", "ans_encode_rows"]

two_sets = np.tile(entries()["cumulative"], 2)
WRONG = [
    *((name, {"lengths": np.array(wrong)}) for name in DECODERS for wrong in ([10, 10, 9], [10, 10, 11], [-1, 11, 20])),
    *((name, {"lengths": np.array([2**62, 2**62, 2**62])}) for name in DECODERS),
    *((name, {"lengths": np.array([15, 15])}) for name in DECODERS),
    *((name, {"words": np.empty(size, np.uint32)}) for name in ENCODERS for size in (0, 1, 300)),
    *((name, {"lengths": np.empty(2, np.int64)}) for name in ENCODERS),
    *((name, {"cumulative": wrong}) for name in DECODERS + ENCODERS for wrong in (two_sets, two_sets[:-1] * 0)),
    *((name, {"cumulative": entries()["cumulative"] + 1}) for name in DECODERS + ENCODERS),
    *((name, {"cumulative": entries()["cumulative"][::-1].copy()}) for name in DECODERS + ENCODERS),
    *((name, {"bounds": entries()["bounds"][:-1]}) for name in DECODERS + ENCODERS),
    *((name, {"bounds": np.array([0, 40, 3, *range(9, 37, 3)])}) for name in DECODERS + ENCODERS),
    *((name, {"bounds": np.array([-3, *range(3, 37, 3)])}) for name in DECODERS + ENCODERS),
    *(
        (name, {"lowest": np.full(CONTEXTS, wrong, np.int32)})
        for name in DECODERS + ENCODERS
        for wrong in (-32769, 32767)
    ),
    *((name, entries(CONTEXTS - 1)) for name in DECODERS + ENCODERS),
    *((name, entries(CONTEXTS + 1)) for name in DECODERS + ENCODERS),
    *((name, {"counts": np.full((BLOCKS, CONTEXTS), wrong)}) for name in GROUPED for wrong in (1, 3, -2, 2**62)),
    *((name, {"counts": np.full((BLOCKS, CONTEXTS + 1), 2)}) for name in GROUPED),
    ("ans_decode_grouped", {"counts": np.full((2, CONTEXTS), 3)}),
    *((name, {"row_scale": np.zeros(ROWS + 1, np.int16)}) for name in GRIDS),
    *((name, {"column_scale": np.zeros(COLUMNS - 1, np.int16)}) for name in GRIDS),
    *((name, {"width": wrong}) for name in GRIDS for wrong in (0, 3, 8, -1)),
    *((name, {"extent": wrong}) for name in GRIDS for wrong in (0, 1, 3, -2, 2**62)),
    *(
        ("ans_decode_rows", {"coders": np.zeros(shape, np.uint64)})
        for shape in ((BLOCKS, LANES), (BLOCKS - 1, LANES + 1), (BLOCKS + 1, LANES + 1))
    ),
    *(("ans_decode_rows", {"states": np.zeros(size, np.uint8)}) for size in (COLUMNS - 1, COLUMNS + 1)),
    ("ans_decode_rows", {"states": np.ones(COLUMNS, np.uint8)}),
    *((name, {"next": np.full((1, 2), 1, np.uint8)}) for name in MACHINES),
    *((name, {"next": np.zeros((2, 2), np.uint8)}) for name in MACHINES),
    *((name, {"next": np.zeros((1, 3), np.uint8)}) for name in MACHINES),
    *((name, {"quantizer": np.ones(1, np.uint8)}) for name in MACHINES),
    *((name, {"quantizer": np.zeros(0, np.uint8), "next": np.zeros((0, 2), np.uint8)}) for name in MACHINES),
    *((name, {"quantizer": np.array([0, 1], np.uint8), "next": np.zeros((2, 2), np.uint8)}) for name in MACHINES),
]


@pytest.mark.parametrize("name", DECODERS + ENCODERS)
def test_right_sizes_are_accepted(name: str) -> None:
    assert getattr(native, name)(**arguments(name)) is (name in ENCODERS)


@pytest.mark.parametrize(("name", "wrong"), WRONG)
def test_wrong_sizes_are_refused(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|fit|descend|ascend|least|lead|large|uses"):
        getattr(native, name)(**{**arguments(name), **wrong})


@pytest.mark.parametrize("name", DECODERS)
def test_an_output_of_another_kind_is_refused(name: str) -> None:
    out = arguments(name)["out"]
    with pytest.raises(TypeError):
        getattr(native, name)(**{**arguments(name), "out": out.astype(np.int32)})
    with pytest.raises(TypeError):
        getattr(native, name)(**{**arguments(name), "out": out[..., ::2]})
