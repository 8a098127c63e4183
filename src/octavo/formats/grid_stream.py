"""The bytes of an entropy-coded grid, written and read; also block by block, without ever decoding the whole.

The one part of a grid, `coded` (uint8), holds, little endian:

| bytes | content |
|---|---|
| 1 | version: 3 |
| 1 | context width in quarter octaves: 1, 2 or 4 |
| 4 | POINTS signed bytes: index ±k stands for ±(k - byte/128) steps, k = 1 … 4 |
| 4 | the same of quantizer 1 of a trellis, whose index ±k stands for ±(k - 1/2 - byte/128) steps; else zeros |
| 4 | number of states of the trellis, 1 for a scalar grid; three zeros |
| 4 | the step, float32 |
| 8 | four int16 origins: the least row step, column step, row scale, column scale (quarter octaves) |
| 4 | uint32: bytes of the side tables |
| 4 | uint32: bytes of the tables |
| 4 | uint32: words of the side block |
| 4 | uint32: blocks |
| … | side tables; tables (octavo.formats.coding.ans) |
| 4 each | uint32 words of each block |
| … | words of the side block: all rows' steps, columns' steps, rows' scales, columns' scales, each less its origin |
| … | words of the blocks: of max(1, 2^17 // columns) rows, with a trellis of max(32, 2^17 // rows) columns |
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray
from torch import Tensor

from octavo.formats import grid_census, grid_codes
from octavo.formats.coding import ans, scale_context
from octavo.formats.coding.sections import VERSION, check_version, sections, some_blocks, words_of
from octavo.formats.grid_codes import Grid, Indices
from octavo.formats.grid_resident import OCTAVES
from octavo.kernels import entropy
from octavo.kernels.entropy_streams import LANES, Layout, Place, Tables, trellis_machine
from octavo.kernels.trellis import POLYNOMIALS

SHARES = 128
"""Parts of a step that centroids are stored in."""

PIECE = 1 << 17
"""Weights of a block that are decoded before they are used."""

_HEADER = struct.Struct("<BB8bB3xf4hIIII")


def side_bits(grid: Grid) -> float:
    """Bits of everything in `coded` but the tables and the grid's indices."""
    _, tables, integers, contexts = _side(grid)
    used = [np.bincount(integers[contexts == context]) for context in range(4)]
    costs = [table.cost(counts) for table, counts in zip(tables, used, strict=True) if table is not None]
    blocks = sum(1 for _ in grid.chunks())
    # A block ends on a whole word, and its coders' states are one word longer than their information.
    spare = 32 + 48 + blocks * (48 if grid.states == 1 else 64 * LANES)
    return 8 * (_HEADER.size + len(ans.pack_tables(tables))) + spare + sum(costs) + 32 * blocks


def encode_grid(matrix: NDArray[np.float32], grid: Grid) -> NDArray[np.uint8]:
    """The bytes of a matrix on a grid; the layout stands at the top of this file."""
    indices = np.empty(matrix.shape, np.int16)

    def found() -> Iterator[Indices]:
        for chunk in grid.chunks():
            part = grid.indices(matrix[chunk], *chunk)
            indices[chunk] = part.index
            yield part

    census = grid_census.census_of(found(), grid)
    width, tables, _ = census.best_tables()
    layout = Layout(grid.row_scale, grid.column_scale, width, grid.extent)
    if grid.states == 1:
        blocks, lengths = entropy.encode_grid(indices, layout, ans.coder_tables(tables))
    else:
        blocks, lengths = entropy.encode_rows(indices, layout, ans.coder_tables(tables), trellis_machine(grid.states))
    origins, side_tables, integers, contexts = _side(grid)
    side = ans.encode(integers, contexts, side_tables)
    packed_side, packed = ans.pack_tables(side_tables), ans.pack_tables(tables)
    shortfall = np.zeros((2, grid_census.POINTS), np.int64)
    shortfall[: grid.quantizers] = _stored_shortfall(census.shortfall)
    sizes = len(packed_side), len(packed), len(side), len(lengths)
    start = VERSION, width, *shortfall.reshape(-1).tolist(), grid.states
    header = _HEADER.pack(*start, grid.steps.step, *origins, *sizes)
    words = np.concatenate([side, blocks]).astype("<u4").view(np.uint8)
    pieces = [np.frombuffer(header, np.uint8), packed_side, packed, lengths.astype("<u4").view(np.uint8), words]
    return np.concatenate(pieces)


def _side(grid: Grid) -> tuple[list[int], list[ans.Table | None], NDArray[np.int32], NDArray[np.uint8]]:
    """Origins, tables, integers and contexts of the side block."""
    vectors = [grid.steps.row, grid.steps.column, grid.row_scale, grid.column_scale]
    origins = [int(vector.min()) for vector in vectors]
    integers = [vector.astype(np.int32) - origin for vector, origin in zip(vectors, origins, strict=True)]
    tables: list[ans.Table | None] = [ans.fit_table(np.bincount(vector), symmetric=False) for vector in integers]
    contexts = np.repeat(np.arange(4, dtype=np.uint8), [len(vector) for vector in vectors])
    return origins, tables, np.concatenate(integers), contexts


@dataclass(frozen=True, eq=False)
class GridStream:
    """A grid's bytes, looked at but not decoded.

    Attributes:
        layout: of the indices.
        tables: of the indices' contexts.
        states: of the trellis, 1 for a scalar grid.
        lengths: words of each block.
        words: of all blocks, as bytes.
        parts: those of octavo.formats.entropy_coded that say what indices stand for.
    """

    layout: Layout
    tables: Tables
    states: int
    lengths: NDArray[np.int64]
    words: NDArray[np.uint8]
    parts: dict[str, Tensor]

    @classmethod
    def read(cls, coded: NDArray[np.uint8], rows: int, columns: int) -> GridStream:
        """Look at the bytes of a grid of some shape.

        Raises:
            CheckpointError: they are damaged.
        """
        check_version(coded, _HEADER.size)
        fields = _HEADER.unpack(coded[: _HEADER.size].tobytes())
        width, shortfall, states, step, origins = fields[1], fields[2:10], fields[10], fields[11], fields[12:16]
        side_table_bytes, table_bytes, side_words, count = fields[16:]
        quantizers = 1 if states == 1 else 2
        if width not in scale_context.WIDTHS or not (np.isfinite(step) and step > 0):
            raise ans.damaged()
        if states != 1 and states not in POLYNOMIALS:
            raise ans.damaged()
        packed_side, packed, sizes, words = sections(coded[_HEADER.size :], side_table_bytes, table_bytes, 4 * count)
        lengths = words_of(sizes).astype(np.int64)
        if len(words) != 4 * (side_words + int(lengths.sum())):
            raise ans.damaged()
        sides = [rows, columns, rows, columns]
        contexts = np.repeat(np.arange(4, dtype=np.uint8), sides)
        side_tables = ans.unpack_tables(packed_side, 4, symmetric=False)
        side = ans.decode(words_of(words[: 4 * side_words]), contexts, side_tables)
        vectors = np.split(side, np.cumsum(sides)[:-1])
        row, column, row_scale, column_scale = (
            (vector + origin).astype(np.int16) for vector, origin in zip(vectors, origins, strict=True)
        )
        if not _representable(step, row, column):
            raise ans.damaged()
        tables = ans.unpack_tables(packed, quantizers * (scale_context.FINEST // width))
        if any(table is not None and len(table.entries) > grid_codes.LARGEST + 1 for table in tables):
            raise ans.damaged()
        layout = Layout(row_scale, column_scale, width, grid_codes.extent(rows, columns, states))
        parts = {
            "row_step": torch.from_numpy(row),
            "column_step": torch.from_numpy(column),
            "step": torch.tensor([step / quantizers], dtype=torch.float32),
            "points": torch.from_numpy(grid_census.points(np.array(shortfall).reshape(2, -1) / SHARES, states)),
        }
        return cls(layout, ans.coder_tables(tables), states, lengths, words[4 * side_words :], parts)

    def codes(self) -> NDArray[np.int16]:
        """What all indices stand for in steps, of a trellis in half steps, [rows, columns].

        Raises:
            CheckpointError: the bytes are damaged.
        """
        arguments = words_of(self.words), self.lengths, self.layout, self.tables
        if self.states == 1:
            return entropy.decode_grid(*arguments)
        return entropy.decode_rows(*arguments, trellis_machine(self.states), positions=True)

    def pieces(self, begin: int, end: int) -> Iterator[tuple[slice, slice, NDArray[np.int16]]]:
        """The same piece by piece, with the rows and the columns of each: those with a row from begin to end.

        Raises:
            CheckpointError: the bytes are damaged.
        """
        return self._groups(begin, end) if self.states == 1 else self._strips(begin, end)

    def _groups(self, begin: int, end: int) -> Iterator[tuple[slice, slice, NDArray[np.int16]]]:
        """Blocks of rows, as many at a time as there are threads."""
        groups, together = self.layout.grouped(), torch.get_num_threads()
        columns = slice(0, self.layout.shape[1])
        for first in range(0, len(groups), together):
            own = groups[first : first + together]
            rows = slice(own[0].start, own[-1].stop)
            if rows.start < end and begin < rows.stop:
                layout = replace(self.layout, row_scale=self.layout.row_scale[rows])
                blocks = some_blocks(self.words, self.lengths, first, together)
                yield rows, columns, entropy.decode_grid(*blocks, layout, self.tables)

    def _strips(self, begin: int, end: int) -> Iterator[tuple[slice, slice, NDArray[np.int16]]]:
        """Blocks of columns, as many at a time as there are threads, and some rows of them at a time."""
        strips, together = self.layout.strips(), torch.get_num_threads()
        rows, machine = self.layout.shape[0], trellis_machine(self.states)
        for first in range(0, len(strips), together):
            own = strips[first : first + together]
            left = own[0].start
            layout = replace(self.layout, column_scale=self.layout.column_scale[left : own[-1].stop])
            blocks, place = some_blocks(self.words, self.lengths, first, together), Place.top(layout)
            height = max(1, PIECE // (own[0].stop - left))
            for top in range(0, min(end, rows), height):
                run = slice(top, min(top + height, rows))
                part = replace(layout, row_scale=layout.row_scale[run])
                codes = entropy.decode_rows(
                    *blocks, part, self.tables, machine, positions=True, place=place, more=run.stop < rows
                )
                if begin < run.stop:
                    yield from ((run, strip, codes[:, strip.start - left : strip.stop - left]) for strip in own)


def continuous(coded: UInt8[Tensor, " bytes"]) -> tuple[float, Float32[Tensor, "quantizers points"]]:
    """What may be changed in a grid's stream without coding it anew: the step, and what its centroids fall short by.

    Raises:
        CheckpointError: the stream is damaged.
    """
    check_version(coded.numpy(), _HEADER.size)
    _, _, *shortfall, states, step = _HEADER.unpack_from(coded.numpy().tobytes())[:12]
    return step, torch.tensor(shortfall).view(2, -1)[: 1 if states == 1 else 2] / SHARES


def with_continuous(
    coded: UInt8[Tensor, " bytes"], step: float, shortfall: Float32[Tensor, "quantizers points"]
) -> UInt8[Tensor, " bytes"]:
    """A grid's stream with another step and other centroids, both rounded as they are stored."""
    data = bytearray(coded.numpy().tobytes())
    version, width, *rest = _HEADER.unpack_from(data)
    rounded = _stored_shortfall(shortfall.numpy()).ravel().tolist()
    rest[: len(rounded)] = rounded
    rest[9] = step
    _HEADER.pack_into(data, 0, version, width, *rest)
    return torch.frombuffer(data, dtype=torch.uint8)


def _stored_shortfall(shortfall: NDArray[np.floating]) -> NDArray[np.int64]:
    return np.clip(np.rint(SHARES * shortfall), 1 - SHARES, SHARES - 1).astype(np.int64)


def _representable(step: float, row: NDArray[np.int16], column: NDArray[np.int16]) -> bool:
    """Whether every multiple of every step that an index may ask for is finite in float32."""
    octaves = [np.array([vector.min(), vector.max()], dtype=float) / scale_context.QUARTERS for vector in (row, column)]
    if any(np.abs(span).max() > OCTAVES for span in octaves):
        return False
    column_step = np.log2(step) - octaves[1][0]
    return column_step < OCTAVES and column_step - octaves[0][0] < OCTAVES - np.log2(2 * grid_codes.LARGEST)
