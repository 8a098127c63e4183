"""The entropy coder in C++, over as many threads as torch uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.base.errors import FormatError
from octavo.kernels import cpu
from octavo.kernels.entropy_streams import Layout, Machine, Place, Tables, damaged


def decode_grouped(
    words: NDArray[np.uint32], lengths: NDArray[np.int64], counts: NDArray[np.int64], tables: Tables
) -> NDArray[np.int16]:
    out = np.empty(int(counts.sum()), np.int16)
    arguments = np.ascontiguousarray(counts), *_flat(tables), out, torch.get_num_threads()
    if not cpu._extension().ans_decode_grouped(*_stream(words, lengths), *arguments):
        raise damaged()
    return out


def encode_grouped(
    integers: NDArray[np.int16], counts: NDArray[np.int64], tables: Tables
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    most = int(counts.sum(1).max(initial=0))
    arguments = np.ascontiguousarray(integers, np.int16), np.ascontiguousarray(counts), *_flat(tables)
    return _encoded(cpu._extension().ans_encode_grouped, len(counts), most, arguments)


def decode_grid(
    words: NDArray[np.uint32], lengths: NDArray[np.int64], layout: Layout, tables: Tables
) -> NDArray[np.int16]:
    out = np.empty(layout.shape, np.int16)
    arguments = *_scales(layout), *_flat(tables), out, torch.get_num_threads()
    if not cpu._extension().ans_decode_grid(*_stream(words, lengths), *arguments):
        raise damaged()
    return out


def encode_grid(
    indices: NDArray[np.int16], layout: Layout, tables: Tables
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    arguments = np.ascontiguousarray(indices), *_scales(layout), *_flat(tables)
    rows, columns = layout.shape
    largest = min(rows, layout.extent) * columns
    return _encoded(cpu._extension().ans_encode_grid, len(layout.grouped()), largest, arguments)


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
    arguments = *_scales(layout), *_states(machine), *_flat(tables), positions, place.coders, place.states, more, out
    arguments = *arguments, torch.get_num_threads()
    if not cpu._extension().ans_decode_rows(*_stream(words, lengths), *arguments):
        raise damaged()
    return out


def encode_rows(
    indices: NDArray[np.int16], layout: Layout, tables: Tables, machine: Machine
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    arguments = np.ascontiguousarray(indices), *_scales(layout), *_states(machine), *_flat(tables)
    rows, columns = layout.shape
    largest = rows * min(columns, layout.extent)
    return _encoded(cpu._extension().ans_encode_rows, len(layout.strips()), largest, arguments)


def _encoded(
    encode: Callable[..., bool], blocks: int, largest: int, arguments: tuple[Any, ...]
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Every block is written into the room that the largest may need; what is left over is cut away."""
    words = np.empty((blocks, cpu._extension().ans_room(largest)), np.uint32)
    lengths = np.empty(blocks, np.int64)
    if not encode(*arguments, words.reshape(-1), lengths, torch.get_num_threads()):
        raise FormatError("an integer is not in its frequency table", "fit the table to all integers that it codes")
    pieces = [block[:length] for block, length in zip(words, lengths, strict=True)]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.uint32), lengths


def _stream(words: NDArray[np.uint32], lengths: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    return np.ascontiguousarray(words, np.uint32), np.ascontiguousarray(lengths, np.int64)


def _flat(tables: Tables) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int32]]:
    return np.concatenate(tables.cumulatives), tables.bounds, tables.lowest


def _scales(layout: Layout) -> tuple[NDArray[np.int16], NDArray[np.int16], int, int]:
    row, column = (np.ascontiguousarray(scale, np.int16) for scale in (layout.row_scale, layout.column_scale))
    return row, column, layout.width, layout.extent


def _states(machine: Machine) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return np.ascontiguousarray(machine.next, np.uint8), np.ascontiguousarray(machine.quantizer, np.uint8)
