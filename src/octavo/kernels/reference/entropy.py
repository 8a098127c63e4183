"""Entropy-coded streams by constriction's ANS coder (grouped blocks) and in plain Python (blocks in row order)."""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from octavo.base.errors import FormatError
from octavo.kernels.entropy_streams import LANES, PRECISION, Layout, Machine, Place, Tables, damaged
from octavo.kernels.scale_contexts import contexts

# A compiled module without type stubs.
_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]

_LEAST = 1 << 32


def decode_grouped(
    words: NDArray[np.uint32], lengths: NDArray[np.int64], counts: NDArray[np.int64], tables: Tables
) -> NDArray[np.int16]:
    models = _models(tables)
    blocks = np.split(words, np.cumsum(lengths)[:-1]) if len(lengths) else []
    pieces = [_decode_block(block, number, models, tables) for block, number in zip(blocks, counts, strict=True)]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)


def encode_grouped(
    integers: NDArray[np.int16], counts: NDArray[np.int64], tables: Tables
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    models = _models(tables)
    pieces = np.split(integers, np.cumsum(counts.sum(1))[:-1]) if len(counts) else []
    blocks = [_encode_block(piece, number, models, tables) for piece, number in zip(pieces, counts, strict=True)]
    return _joined(blocks)


def decode_grid(
    words: NDArray[np.uint32], lengths: NDArray[np.int64], layout: Layout, tables: Tables
) -> NDArray[np.int16]:
    models = _models(tables)
    out = np.empty(layout.shape, np.int16)
    blocks = np.split(words, np.cumsum(lengths)[:-1])
    for rows, block in zip(layout.grouped(), blocks, strict=True):
        order, counts = _by_context(layout, rows)
        out[rows].reshape(-1)[order] = _decode_block(block, counts, models, tables)
    return out


def encode_grid(
    indices: NDArray[np.int16], layout: Layout, tables: Tables
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    models = _models(tables)
    blocks = []
    for rows in layout.grouped():
        order, counts = _by_context(layout, rows)
        blocks.append(_encode_block(indices[rows].reshape(-1)[order], counts, models, tables))
    return _joined(blocks)


def decode_rows(
    words: NDArray[np.uint32],
    lengths: NDArray[np.int64],
    layout: Layout,
    tables: Tables,
    machine: Machine,
    positions: bool,
    place: Place,
    more: bool,
) -> NDArray[np.int16]:
    out = np.empty(layout.shape, np.int16)
    blocks = np.split(words, np.cumsum(lengths)[:-1])
    for strip, block, kept in zip(layout.strips(), blocks, place.coders, strict=True):
        *coders, taken = kept.tolist()
        if len(block) < max(2 * LANES, taken):
            raise damaged()
        if not taken:
            coders = [int(word) | int(upper) << 32 for word, upper in block[: 2 * LANES].reshape(LANES, 2)]
            taken = 2 * LANES
        if min(coders) < _LEAST:
            raise damaged()
        waiting = iter(block[taken:].tolist())
        states = place.states[strip]
        found = out[:, strip]
        for row in range(len(out)):
            chosen = _tables_of_row(layout, machine, row, strip, states)
            for column, number in enumerate(chosen.tolist()):
                coder = coders[column % LANES]
                table = tables.cumulatives[number]
                if not len(table):
                    raise damaged()
                quantile = coder % (1 << PRECISION)
                symbol = int(np.searchsorted(table, quantile, side="right")) - 1
                left, right = int(table[symbol]), int(table[symbol + 1])
                coder = (coder >> PRECISION) * (right - left) + quantile - left
                if coder < _LEAST:
                    word = next(waiting, None)
                    coder = coder if word is None else coder << 32 | word
                    taken += word is not None
                coders[column % LANES] = coder
                found[row, column] = tables.lowest[number] + symbol
            index = found[row].copy()
            if positions:
                found[row] = 2 * index - np.sign(index) * machine.quantizer[states]
            states[:] = machine.next[states, index & 1]
        kept[:] = *coders, taken
        if not more and (coders != [_LEAST] * LANES or next(waiting, None) is not None):
            raise damaged()
    return out


def encode_rows(
    indices: NDArray[np.int16], layout: Layout, tables: Tables, machine: Machine
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    blocks = []
    for strip in layout.strips():
        mine = indices[:, strip]
        states = np.zeros(mine.shape[1], np.uint8)
        chosen = []
        for row in range(len(mine)):
            chosen.append(_tables_of_row(layout, machine, row, strip, states))
            states = machine.next[states, mine[row] & 1]
        coders, words = [_LEAST] * LANES, []
        lanes = np.broadcast_to(np.arange(mine.shape[1]) % LANES, mine.shape)
        integers = mine.reshape(-1).tolist()
        for lane, number, integer in zip(
            lanes.reshape(-1)[::-1].tolist(), np.concatenate(chosen)[::-1].tolist(), integers[::-1], strict=True
        ):
            left, probability = _code_of(tables, number, integer)
            coder = coders[lane]
            if coder >> (64 - PRECISION) >= probability:
                words.append(coder % _LEAST)
                coder >>= 32
            coders[lane] = (coder // probability << PRECISION) + left + coder % probability
        head = [part for coder in coders for part in (coder % _LEAST, coder >> 32)]
        blocks.append(np.array(head + words[::-1], np.uint32))
    return _joined(blocks)


def _tables_of_row(
    layout: Layout, machine: Machine, row: int, strip: slice, states: NDArray[np.uint8]
) -> NDArray[np.int64]:
    mine = contexts(layout.row_scale[row : row + 1], layout.column_scale[strip], layout.width)[0]
    return machine.quantizer[states].astype(np.int64) * layout.contexts + mine


def _code_of(tables: Tables, number: int, integer: int) -> tuple[int, int]:
    """Left cumulative and probability of an integer."""
    table, symbol = tables.cumulatives[number], integer - int(tables.lowest[number])
    if not 0 <= symbol < len(table) - 1 or table[symbol] == table[symbol + 1]:
        raise _no_code()
    return int(table[symbol]), int(table[symbol + 1] - table[symbol])


def _by_context(layout: Layout, rows: slice) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Stable order of a block's weights by context, and how many each context has."""
    found = contexts(layout.row_scale[rows], layout.column_scale, layout.width).reshape(-1)
    # numpy sorts bytes by their digits.
    return np.argsort(found, kind="stable"), np.bincount(found, minlength=layout.contexts)


def _models(tables: Tables) -> list[Any]:
    return [None if w is None else _stream.model.Categorical(w, perfect=False) for w in tables.weights]


def _decode_block(
    words: NDArray[np.uint32], counts: NDArray[np.int64], models: list[Any], tables: Tables
) -> NDArray[np.int16]:
    pieces = [np.zeros(0, np.int16)]
    try:
        coder = _stream.stack.AnsCoder(np.ascontiguousarray(words))
        for count, model, lowest in zip(counts.tolist(), models, tables.lowest.tolist(), strict=True):
            if count == 0:
                continue
            if model is None:
                raise damaged()
            pieces.append((coder.decode(model, count) + lowest).astype(np.int16))
    except ValueError as error:  # constriction refuses words that cannot come from an encoder
        raise damaged() from error
    if not coder.is_empty():
        raise damaged()
    return np.concatenate(pieces)


def _encode_block(
    integers: NDArray[np.int16], counts: NDArray[np.int64], models: list[Any], tables: Tables
) -> NDArray[np.uint32]:
    bounds = np.cumsum([0, *counts.tolist()])
    coder = _stream.stack.AnsCoder()
    for context in range(len(models) - 1, -1, -1):  # a stack: last in, first out
        mine = integers[bounds[context] : bounds[context + 1]].astype(np.int32) - tables.lowest[context]
        if not len(mine):
            continue
        weights = tables.weights[context]
        if weights is None or mine.min() < 0 or mine.max() >= len(weights):
            raise _no_code()
        coder.encode_reverse(mine, models[context])
    return coder.get_compressed()


def _joined(blocks: list[NDArray[np.uint32]]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    lengths = np.array([len(block) for block in blocks], np.int64)
    return np.concatenate([np.zeros(0, np.uint32), *blocks]), lengths


def _no_code() -> FormatError:
    return FormatError("an integer is not in its frequency table", "fit the table to all integers that it codes")
