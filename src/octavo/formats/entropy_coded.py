"""Entropy-coded tensors: water-filled and plain uniform grids, and the codes of any codebook, as real bit streams.

The one part of a grid, `coded` (uint8), is a stream of octavo.formats.grid_stream; for codebook elements a `coded` of
octavo.formats.code_stream takes the place of `codes`.

A coded tensor is small, but nothing can be computed with it as it is. Decoded it has fixed-width codes
(codebooks), or columns of unequal width (grids, octavo.formats.grid_resident): `row_step` and `column_step` are the
negative logarithms of the rows' and columns' steps in quarter octaves, `step` the common step, `points` the values of
the indices -4 ... 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy.typing import NDArray
from torch import Tensor

from octavo import kernels
from octavo.base.errors import FormatError
from octavo.formats import fixed_width, grid_census, grid_codes, grid_resident
from octavo.formats.code_stream import CodeStream, encode_codes
from octavo.formats.coding import scale_context
from octavo.formats.elements.grid import Grid as GridElement
from octavo.formats.format import Format, matrix_shape
from octavo.formats.grid_census import Census
from octavo.formats.grid_codes import Grid, Indices, Steps
from octavo.formats.grid_stream import GridStream, encode_grid, side_bits
from octavo.formats.importance import Importance
from octavo.formats.piece import Piece
from octavo.formats.rounding import Rounder
from octavo.formats.scaling import Scaling, block_statistic
from octavo.formats.tensor import QuantizedTensor


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
        fixed = self.fixed.quantize(weights)
        levels = self.format.levels
        assert levels is not None
        parts = dict(fixed.parts)
        codes = kernels.unpack(parts.pop("codes"), levels, fixed.numel).cpu().numpy().astype(np.int32)
        return QuantizedTensor(self.format, fixed.shape, {"coded": torch.from_numpy(encode_codes(codes)), **parts})


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
    stream = stream_of(quantized)
    if isinstance(stream, CodeStream):
        return _fixed(quantized, stream.codes(), quantized.shape).dequantize()
    row, column = grid_resident.steps(stream.parts)
    codes, points = torch.from_numpy(stream.codes()), stream.parts["points"]
    return kernels.separable_dequantize(codes, row, column, points).view(quantized.shape)


def decoded(quantized: QuantizedTensor) -> QuantizedTensor:
    """Without the entropy code: grid indices as wide as each column needs, or fixed-width codes.

    Raises:
        CheckpointError: the stream is damaged.
    """
    stream = stream_of(quantized)
    if isinstance(stream, CodeStream):
        return _fixed(quantized, stream.codes(), quantized.shape)
    return QuantizedTensor(
        quantized.format, quantized.shape, {**grid_resident.narrowed(stream.codes()), **stream.parts}
    )


def pieces(quantized: QuantizedTensor, begin: int, end: int) -> Iterator[Piece]:
    """Pieces of a coded matrix, decoded one after the other, which together hold its rows from begin to end.

    Raises:
        CheckpointError: the stream is damaged.
    """
    stream, columns = stream_of(quantized), quantized.shape[-1]
    if isinstance(stream, CodeStream):
        for taken, codes in stream.rows(columns):
            if taken.start < end and begin < taken.stop:
                fixed = _fixed(quantized, codes, (taken.stop - taken.start, columns), taken)
                yield Piece(taken, slice(0, columns), fixed.dequantize())
        return
    row, column = grid_resident.steps(stream.parts)
    for taken, across, codes in stream.pieces(begin, end):
        steps = row[taken], column[across], stream.parts["points"]
        yield Piece(taken, across, kernels.separable_dequantize(torch.from_numpy(codes), *steps))


def stream_of(quantized: QuantizedTensor) -> GridStream | CodeStream:
    """The stream of a coded tensor, looked at but not decoded.

    Raises:
        CheckpointError: it is damaged, as far as that can be seen.
    """
    coded = quantized.parts["coded"].cpu().numpy()
    if isinstance(quantized.format.element, GridElement):
        return GridStream.read(coded, *matrix_shape(quantized.shape))
    levels = quantized.format.levels
    assert levels is not None
    return CodeStream.read(coded, quantized.numel, levels)


def _fixed(
    quantized: QuantizedTensor, codes: NDArray[np.uint8], shape: tuple[int, ...], rows: slice = slice(None)
) -> QuantizedTensor:
    """A tensor of coded codes, or some rows of it, in fixed width."""
    levels = quantized.format.levels
    assert levels is not None
    parts = {name: part for name, part in quantized.parts.items() if name != "coded"}
    if len(parts["scales"]) > 1:
        parts["scales"] = parts["scales"][rows]
    parts["codes"] = kernels.pack(torch.from_numpy(codes), levels)
    return QuantizedTensor(replace(quantized.format, code="fixed"), shape, parts)


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
