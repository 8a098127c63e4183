"""Entropy-coded tensors: water-filled and plain uniform grids, and the codes of any codebook, as real bit streams.

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

For codebook elements `coded` takes the place of `codes`: version, three zero bytes, uint32 bytes of the table, uint32
blocks, the table, the blocks' lengths, their words (a block being 2^17 codes).

A coded tensor is small in a file, but nothing can be computed with it. Decoded it has fixed-width codes
(codebooks), or columns of unequal width (grids, octavo.formats.grid_resident): `row_step` and `column_step` are the
negative logarithms of the rows' and columns' steps in quarter octaves, `step` the common step, `points` the values of
the indices -4 ... 4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from numpy.typing import NDArray
from torch import Tensor

from octavo import kernels
from octavo.base.errors import CheckpointError, FormatError
from octavo.formats import fixed_width, grid_census, grid_codes, grid_resident
from octavo.formats.coding import ans, scale_context
from octavo.formats.elements.grid import Grid as GridElement
from octavo.formats.format import Format, matrix_shape
from octavo.formats.grid_census import Census
from octavo.formats.grid_codes import Grid, Indices, Steps
from octavo.formats.grid_resident import OCTAVES
from octavo.formats.importance import Importance
from octavo.formats.rounding import Rounder
from octavo.formats.scaling import Scaling, block_statistic
from octavo.formats.tensor import QuantizedTensor
from octavo.kernels import entropy
from octavo.kernels.entropy_streams import LANES, Layout, trellis_machine
from octavo.kernels.trellis import POLYNOMIALS

VERSION = 3
"""Earlier ones are not read: their tables were not deflated, and their paths through a trellis ended every few rows."""

CODES = 1 << 17
"""Codes to a block of an entropy-coded codebook format."""

SHARES = 128
"""Parts of a step that centroids are stored in."""

_HEADER = struct.Struct("<BB8bB3xf4hIIII")
_CODES_HEADER = struct.Struct("<BxxxII")


@dataclass(frozen=True, eq=False)
class GridRounder:
    """A grid laid over a tensor (see octavo.formats.rounding.Rounder).

    Attributes:
        format: the format.
        grid: steps, scales and trellis.
        sample: the matrix that the grid was laid over; its centroids are those that rounding counts with.
    """

    format: Format
    grid: Grid
    sample: NDArray[np.float32]

    @property
    def together(self) -> int:
        return 1

    @cached_property
    def _laid(self) -> tuple[Census, NDArray[np.int16]]:
        """The census of the sample, and its positions (see `Grid.positions`)."""
        positions = np.empty(self.sample.shape, np.int16)

        def found() -> Iterator[Indices]:
            for chunk in self.grid.chunks():
                part = self.grid.indices(self.sample[chunk], *chunk)
                positions[chunk] = np.copysign(self.grid.quantizers * part.magnitude, part.index)
                yield part

        return grid_census.census_of(found(), self.grid), positions

    @cached_property
    def _points(self) -> NDArray[np.float32]:
        """Values of all positions, in steps."""
        near = grid_census.points(self._laid[0].shortfall, self.grid.states)
        reach, largest = len(near) // 2, self.grid.quantizers * grid_codes.LARGEST
        every = np.arange(-largest, largest + 1, dtype=np.float32)
        every[largest - reach : largest + reach + 1] = near
        return every / np.float32(self.grid.quantizers)

    def round(self, columns: slice, values: Float32[Tensor, "rows run"]) -> Float32[Tensor, "rows run"]:
        weights = values.numpy()
        # Error feedback compares with the rounded sample, which is known from its census.
        known = np.array_equal(weights, self.sample)
        position = self._laid[1] if known else self.grid.positions(weights, columns)
        steps = self._points.take(position.astype(np.int32) + len(self._points) // 2)
        return torch.from_numpy(steps / self._inverse[0] / self._inverse[1][columns])

    @cached_property
    def _inverse(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.grid.steps.row_inverse[:, None], self.grid.steps.column_inverse

    def quantize(self, weights: Float[Tensor, "..."]) -> QuantizedTensor:
        coded = encode_grid(_matrix(weights), self.grid)
        return QuantizedTensor(self.format, tuple(weights.shape), {"coded": torch.from_numpy(coded)})


@dataclass(frozen=True, eq=False)
class CodedRounder:
    """A fixed-width format whose codes will be entropy coded (see octavo.formats.rounding.Rounder)."""

    format: Format
    fixed: Rounder

    @property
    def together(self) -> int:
        return self.fixed.together

    def round(self, columns: slice, values: Float32[Tensor, "rows run"]) -> Float32[Tensor, "rows run"]:
        return self.fixed.round(columns, values)

    def quantize(self, weights: Float[Tensor, "..."]) -> QuantizedTensor:
        return _code_codes(self.format, self.fixed.quantize(weights))


def settle(format: Format, weights: Float[Tensor, "..."], importance: Importance | None) -> Rounder:
    """Scales and codebook, or the grid, of a tensor (see `Format.settle`).

    Raises:
        FormatError: a weight is NaN or infinite, the importance has another shape, or a grid is asked for blocks.
    """
    if not isinstance(format.element, GridElement):
        return CodedRounder(format, fixed_width.settle(replace(format, code="fixed"), weights, importance))
    return GridRounder(format, *grid_of(format, weights, importance))


def _matrix(weights: Float[Tensor, "..."]) -> NDArray[np.float32]:
    return weights.detach().reshape(-1, weights.shape[-1]).float().cpu().numpy()


def dequantize(quantized: QuantizedTensor) -> Float32[Tensor, "..."]:
    """The tensor behind coded or decoded parts, float32.

    Raises:
        CheckpointError: the stream is damaged.
    """
    if "coded" not in quantized.parts:
        return grid_resident.dequantize(quantized.parts).view(quantized.shape)
    if not isinstance(quantized.format.element, GridElement):
        return decoded(quantized).dequantize()
    codes, parts = _decode_grid(quantized.parts["coded"].cpu().numpy(), *matrix_shape(quantized.shape))
    row, column = grid_resident.steps(parts)
    return kernels.separable_dequantize(torch.from_numpy(codes), row, column, parts["points"]).view(quantized.shape)


def decoded(quantized: QuantizedTensor) -> QuantizedTensor:
    """Without the entropy code: grid indices as wide as each column needs, or fixed-width codes.

    Raises:
        CheckpointError: the stream is damaged.
    """
    rows, columns = matrix_shape(quantized.shape)
    coded = quantized.parts["coded"].cpu().numpy()
    if not isinstance(quantized.format.element, GridElement):
        others = {name: part for name, part in quantized.parts.items() if name != "coded"}
        levels = quantized.format.levels
        assert levels is not None
        codes = torch.from_numpy(_decode_codes(coded, rows * columns, levels))
        return QuantizedTensor(
            replace(quantized.format, code="fixed"), quantized.shape, {"codes": kernels.pack(codes, levels), **others}
        )
    codes, parts = _decode_grid(coded, rows, columns)
    return QuantizedTensor(quantized.format, quantized.shape, {**grid_resident.narrowed(codes), **parts})


def grid_of(
    format: Format, weights: Float[Tensor, "..."], importance: Importance | None
) -> tuple[Grid, NDArray[np.float32]]:
    """The grid that a format lays over a tensor, and the tensor as a float32 matrix.

    Raises:
        FormatError: as for `quantize`.
    """
    element, scaling = format.element, format.scaling
    assert isinstance(element, GridElement)
    if scaling.block is not None:
        raise FormatError(f"{format} is impossible", "grids take tensor, channel or separable scales")
    rows, columns = matrix_shape(tuple(weights.shape))
    values = _matrix(weights)
    scales = block_statistic(torch.from_numpy(values), _step_scaling(format))  # refuses NaN and infinity
    if scaling.granularity == "separable":
        unit = separable_steps(importance, rows, columns)
    else:
        # Zeros have no scale; any will do, and 1 overflows nowhere.
        inverse = 1 / torch.where(scales != 0, scales.abs(), 1).flatten().numpy()
        row = scale_context.quarter_log2(np.broadcast_to(inverse, rows))
        unit = Steps(1.0, row, np.zeros(columns, np.int16))
    if element.step is not None:
        return grid_codes.scaled_grid(values, replace(unit, step=element.step), element.states), values
    assert element.rate is not None
    return _grid_at(values, unit, element.rate, element.states), values


def _step_scaling(format: Format) -> Scaling:
    """The scaling whose statistic a grid's step is a multiple of; for separable steps, any."""
    scaling = format.scaling
    if scaling.granularity != "separable":
        return scaling
    return replace(scaling, granularity="tensor", statistic="rms", scale="fp32")


def separable_steps(importance: Importance | None, rows: int, columns: int) -> Steps:
    """Steps in inverse proportion to the square root of the importance; all alike where there is none.

    Raises:
        FormatError: the importance is not that of such a matrix.
    """
    if importance is None:
        return Steps(1.0, np.zeros(rows, np.int16), np.zeros(columns, np.int16))
    damped = importance.checked(rows, columns).damped()
    row, column = (f.double().sqrt().cpu().numpy() for f in (damped.row, damped.column))
    return Steps(
        1.0,
        grid_codes.bounded(scale_context.quarter_log2(row)),
        grid_codes.bounded(scale_context.quarter_log2(column)),
    )


def side_bits(grid: Grid) -> float:
    """Bits of everything in `coded` but the tables and the grid's indices."""
    _, tables, integers, contexts = _side(grid)
    used = [np.bincount(integers[contexts == context]) for context in range(4)]
    costs = [table.cost(counts) for table, counts in zip(tables, used, strict=True) if table is not None]
    blocks = sum(1 for _ in grid.chunks())
    # A block ends on a whole word, and its coders' states are one word longer than their information.
    spare = 32 + 48 + blocks * (48 if grid.states == 1 else 64 * LANES)
    return 8 * (_HEADER.size + len(ans.pack_tables(tables))) + spare + sum(costs) + 32 * blocks


def _grid_at(values: NDArray[np.float32], unit: Steps, rate: float, states: int) -> Grid:
    """The finest grid whose code, all counted, stays within `rate` bits a weight.

    Raises:
        FormatError: no step does.
    """

    def bits(logarithm: float) -> tuple[float, Grid]:
        grid = grid_codes.scaled_grid(values, replace(unit, step=float(np.float32(2.0**logarithm))), states)
        _, _, coded = grid_census.take_census(values, grid).best_tables()
        return (coded + side_bits(grid)) / values.size, grid

    scale = float(np.sqrt(np.mean(np.square(values * unit.row_inverse[:, None]), dtype=np.float64)))
    if scale == 0:  # nothing but zeros, which every grid has
        scale = 1.0
    high = np.log2(max(scale, 1e-30)) + 2.05 - rate  # the entropy of a normal variable on a fine grid
    low = high
    while bits(high)[0] > rate:
        low, high = high, high + 1
        if high > low + 1 or high > 120 + np.log2(max(scale, 1e-30)):
            break
    if low == high:
        low = high - 1
        finest = high - 24
        while low > finest and bits(low)[0] <= rate:
            low, high = low - 1, low
    best = bits(high)
    if best[0] > rate:
        raise FormatError(f"{values.size} weights do not fit into {rate} bits each", "ask for more bits")
    for _ in range(10):
        middle = (low + high) / 2
        trial = bits(middle)
        if trial[0] <= rate:
            best, high = trial, middle
        else:
            low = middle
    return best[1]


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


def _decode_grid(coded: NDArray[np.uint8], rows: int, columns: int) -> tuple[NDArray[np.int16], dict[str, Tensor]]:
    """The values in fine steps, and the parts that say what these are."""
    _check_version(coded, _HEADER.size)
    fields = _HEADER.unpack(coded[: _HEADER.size].tobytes())
    width, shortfall, states, step, origins = fields[1], fields[2:10], fields[10], fields[11], fields[12:16]
    side_table_bytes, table_bytes, side_words, count = fields[16:]
    quantizers = 1 if states == 1 else 2
    if width not in scale_context.WIDTHS or not (np.isfinite(step) and step > 0):
        raise ans.damaged()
    if states != 1 and states not in POLYNOMIALS:
        raise ans.damaged()
    packed_side, packed, lengths, words = _sections(coded[_HEADER.size :], side_table_bytes, table_bytes, 4 * count)
    lengths = lengths.view("<u4").astype(np.int64)
    if len(words) != 4 * (side_words + int(lengths.sum())):
        raise ans.damaged()
    words = words.view("<u4")
    sides = [rows, columns, rows, columns]
    contexts = np.repeat(np.arange(4, dtype=np.uint8), sides)
    side = ans.decode(words[:side_words], contexts, ans.unpack_tables(packed_side, 4, symmetric=False))
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
    if states == 1:
        codes = entropy.decode_grid(words[side_words:], lengths, layout, ans.coder_tables(tables))
    else:
        codes = entropy.decode_rows(
            words[side_words:], lengths, layout, ans.coder_tables(tables), trellis_machine(states), positions=True
        )
    parts = {
        "row_step": torch.from_numpy(row),
        "column_step": torch.from_numpy(column),
        "step": torch.tensor([step / quantizers], dtype=torch.float32),
        "points": torch.from_numpy(grid_census.points(np.array(shortfall).reshape(2, -1) / SHARES, states)),
    }
    return codes, parts


def continuous(coded: UInt8[Tensor, " bytes"]) -> tuple[float, Float32[Tensor, "quantizers points"]]:
    """What may be changed in a grid's stream without coding it anew: the step, and what its centroids fall short by.

    Raises:
        CheckpointError: the stream is damaged.
    """
    _check_version(coded.numpy(), _HEADER.size)
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


def _check_version(coded: NDArray[np.uint8], size: int) -> None:
    """Refuse what has no header of `size` bytes, or one of another version."""
    if len(coded) < size:
        raise ans.damaged()
    if coded[0] != VERSION:
        raise CheckpointError(
            f"the coded tensor has version {coded[0]}", f"this octavo reads version {VERSION}; compress the model again"
        )


def _representable(step: float, row: NDArray[np.int16], column: NDArray[np.int16]) -> bool:
    """Whether every multiple of every step that an index may ask for is finite in float32."""
    octaves = [np.array([vector.min(), vector.max()], dtype=float) / scale_context.QUARTERS for vector in (row, column)]
    if any(np.abs(span).max() > OCTAVES for span in octaves):
        return False
    column_step = np.log2(step) - octaves[1][0]
    return column_step < OCTAVES and column_step - octaves[0][0] < OCTAVES - np.log2(2 * grid_codes.LARGEST)


def _code_codes(format: Format, fixed: QuantizedTensor) -> QuantizedTensor:
    levels = format.levels
    assert levels is not None
    parts = dict(fixed.parts)
    codes = kernels.unpack(parts.pop("codes"), levels, fixed.numel).cpu().numpy().astype(np.int32)
    tables: list[ans.Table | None] = [ans.fit_table(np.bincount(codes), symmetric=False)]
    words, lengths = entropy.encode_grouped(codes, _counts(len(codes)), ans.coder_tables(tables))
    packed = ans.pack_tables(tables)
    header = np.frombuffer(_CODES_HEADER.pack(VERSION, len(packed), len(lengths)), np.uint8)
    coded = np.concatenate([header, packed, *(part.astype("<u4").view(np.uint8) for part in (lengths, words))])
    return QuantizedTensor(format, fixed.shape, {"coded": torch.from_numpy(coded), **parts})


def _decode_codes(coded: NDArray[np.uint8], count: int, levels: int) -> NDArray[np.uint8]:
    _check_version(coded, _CODES_HEADER.size)
    _, table_bytes, blocks = _CODES_HEADER.unpack(coded[: _CODES_HEADER.size].tobytes())
    if blocks != -(-count // CODES):
        raise ans.damaged()
    packed, lengths, words = _sections(coded[_CODES_HEADER.size :], table_bytes, 4 * blocks)
    lengths = lengths.view("<u4").astype(np.int64)
    if len(words) != 4 * int(lengths.sum()):
        raise ans.damaged()
    words = words.view("<u4")
    tables = ans.unpack_tables(packed, 1, symmetric=False)
    codes = entropy.decode_grouped(words, lengths, _counts(count), ans.coder_tables(tables))
    if codes.max() >= levels:
        raise ans.damaged()
    return codes.astype(np.uint8)


def _counts(codes: int) -> NDArray[np.int64]:
    """Codes in each block, all in one context."""
    return np.diff([*range(0, codes, CODES), codes]).astype(np.int64)[:, None]


def _sections(data: NDArray[np.uint8], *sizes: int) -> list[NDArray[np.uint8]]:
    """Cut data into sections of the given sizes and the rest, each a copy so that it is aligned."""
    if sum(sizes) > len(data):
        raise ans.damaged()
    bounds = np.cumsum(sizes)
    return [section.copy() for section in np.split(data, bounds)]
