"""Products on a GPU with parts that are no packed codes: wide grid codes, trellis streams, single weights, zeros."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from octavo.kernels.triton.launching import launch
from octavo.kernels.triton.operands import FEW, LEAST, MANY, Taken, decoded_rows, scale_stride
from octavo.kernels.triton.parts import (
    grid_kernel,
    grid_rows_kernel,
    shift_kernel,
    shift_rows_kernel,
    sparse_kernel,
    sparse_rows_kernel,
    zeros_kernel,
)
from octavo.kernels.triton.sums import summed
from octavo.kernels.tuning import Cut, Problem, measured, power_of_two


def grid_product(
    inputs: Tensor, codes: Tensor, points: Tensor, row_step: Tensor, taken: Taken, onto: Tensor | None
) -> Tensor:
    """Inputs times the transpose of a grid part's weights."""
    rows, count = codes.shape
    cut = measured(Problem("grid", 0, power_of_two(len(inputs)), rows, count), inputs.device)
    cut = cut or Cut(rows=16, width=64, warps=4, stages=2)
    return _tiled(grid_kernel, inputs, (codes, points, row_step), rows, (points.numel() // 2,), {}, taken, onto, cut)


def shift_product(
    inputs: Tensor,
    codes: Tensor,
    table: Tensor,
    bits: int,
    rows: int,
    scales: Tensor,
    block: int,
    taken: Taken,
    onto: Tensor | None,
) -> Tensor:
    """Inputs times the transpose of what trellis streams stand for; `table` has the value of each state."""
    (count, stream), states = codes.shape, table.numel()
    cut = measured(Problem("shift", states, power_of_two(len(inputs)), rows, count), inputs.device)
    cut = cut or Cut(rows=64 if 1 < len(inputs) <= FEW else 128, width=32, warps=4, stages=2)
    window = states.bit_length() - 1
    sizes = stream, min(block, count), scale_stride(scales)
    constants = {"BITS": bits, "STATES": states, "BYTES": -(-(7 * bits + window) // 8), "SINGLE": block >= count}
    return _tiled(shift_kernel, inputs, (codes, table, scales), rows, sizes, constants, taken, onto, cut)


def sparse_product(inputs: Tensor, starts: Tensor, numbers: Tensor, values: Tensor, onto: Tensor | None) -> Tensor:
    """Inputs times the transpose of single weights."""
    (batch, columns), rows = inputs.shape, starts.numel() - 1
    size = min(power_of_two(batch), MANY)

    def start(below: Tensor, out: Tensor, adding: bool) -> None:
        arguments = inputs, starts, numbers, values, below, out, batch, columns, rows
        constants = {"ONTO": adding, "BATCH": size, "PLACES": 32}
        launch(sparse_kernel, (rows, -(-batch // size)), arguments, constants, 1, 1)

    return summed(inputs, rows, 1, onto, start)


def zeros_product(inputs: Tensor, numbers: Tensor, rows: int, onto: Tensor | None) -> Tensor:
    """Zeros, or NaN for inputs with a number that is not finite in one of the columns."""
    batch, columns = inputs.shape

    def start(below: Tensor, out: Tensor, adding: bool) -> None:
        arguments = inputs, numbers, below, out, columns, rows, numbers.numel()
        launch(zeros_kernel, (batch, -(-rows // 1024)), arguments, {"ONTO": adding, "ROWS": 1024, "PLACES": 256}, 4, 1)

    return summed(inputs, rows, 1, onto, start)


def grid_rows(codes: Tensor, points: Tensor, row_step: Tensor, index: Tensor) -> Tensor:
    """Rows of a grid part by their numbers, float32; where there is no such row, nothing of use."""
    sizes = *codes.shape, points.numel() // 2
    return decoded_rows(grid_rows_kernel, index, codes.shape[1], (codes, points, row_step, index), sizes, {})


def shift_rows(codes: Tensor, table: Tensor, bits: int, rows: int, scales: Tensor, block: int, index: Tensor) -> Tensor:
    """Rows of trellis streams by their numbers, float32; where there is no such row, nothing of use."""
    count, stream = codes.shape
    sizes = rows, count, stream, min(block, count), scale_stride(scales)
    constants = {"BITS": bits, "STATES": table.numel()}
    return decoded_rows(shift_rows_kernel, index, count, (codes, table, scales, index), sizes, constants)


def sparse_rows(starts: Tensor, numbers: Tensor, values: Tensor, index: Tensor, columns: int) -> Tensor:
    """Rows of single weights by their numbers, float32 [index, columns]; zeros where there is no such row."""
    out = torch.zeros(index.numel(), columns, dtype=torch.float32, device=index.device)
    arguments = starts, numbers, values, index, out, starts.numel() - 1, columns
    if index.numel():
        launch(sparse_rows_kernel, (index.numel(),), arguments, {"PLACES": 32}, 1, 1)
    return out


def _tiled(
    kernel: object,
    inputs: Tensor,
    weights: tuple[Tensor, ...],
    rows: int,
    sizes: tuple[int, ...],
    constants: dict[str, Any],
    taken: Taken,
    onto: Tensor | None,
    cut: Cut,
) -> Tensor:
    """The sums of a kernel that makes tiles of weights; tensor cores multiply them with more than FEW inputs."""
    (batch, columns), count = inputs.shape, taken.count(inputs)
    dot = batch > FEW
    places = min(cut.width, max(LEAST, power_of_two(count)))
    tiles = -(-count // places)
    splits = cut.splits_of(rows, tiles) if batch <= MANY else 1
    size = min(max(LEAST, power_of_two(batch)), MANY) if dot else power_of_two(batch)
    constants = {
        **constants,
        "DOT": dot,
        "BATCH": size,
        "ROWS": cut.rows,
        "PLACES": places,
        **taken.constants,
        **taken.precision(inputs),
    }

    def start(below: Tensor, out: Tensor, adding: bool) -> None:
        arguments = (
            *(inputs, *weights, *taken.tensors(inputs), below, out),
            *(batch, columns, rows, count, -(-tiles // splits), *sizes),
        )
        grid = -(-rows // cut.rows), splits, -(-batch // size)
        launch(kernel, grid, arguments, {**constants, "ONTO": adding}, cut.warps, cut.stages)

    return summed(inputs, rows, splits, onto, start)
