"""Arguments of the ops are checked here once, before any back end sees them."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.kernels.layout import layout_of, packed_bytes
from octavo.kernels.shift_trellis import check_trellis, column_bytes
from octavo.kernels.trellis import LARGEST, polynomials


def check_codes(codes: Tensor, levels: int) -> None:
    layout_of(levels)
    if codes.dtype != torch.uint8 or codes.ndim != 1:
        raise FormatError(f"codes to pack are {_described(codes)}", "pass a one-dimensional uint8 tensor")


def check_packed(packed: Tensor, levels: int, count: int) -> None:
    if packed.dtype != torch.uint8 or packed.ndim != 1:
        raise FormatError(f"packed codes are {_described(packed)}", "pass a one-dimensional uint8 tensor")
    if count < 0:
        raise FormatError(f"{count} codes cannot be unpacked", "pass a count of at least 0")
    expected = packed_bytes(count, levels)
    if packed.numel() != expected:
        problem = f"{count} codes of {levels} levels take {expected} bytes, but {packed.numel()} are there"
        raise FormatError(problem, "the tensor is damaged or its shape is wrong")


def check_codebook(codebook: Tensor) -> None:
    if codebook.dtype != torch.float32 or codebook.ndim != 1:
        raise FormatError(f"the codebook is {_described(codebook)}", "pass a one-dimensional float32 tensor")
    layout_of(codebook.numel())
    if not bool((codebook.isfinite().all()) & (codebook[1:] >= codebook[:-1]).all()):
        raise FormatError("the codebook is not finite and ascending", "sort it, and look for NaN")


def check_scales(scales: Tensor, rows: int, cols: int, block: int) -> None:
    if block < 1:
        raise FormatError(f"a block of {block} weights is impossible", "use a block of at least 1")
    if scales.dtype != torch.float32 or scales.ndim != 2:
        raise FormatError(f"the scales are {_described(scales)}", "pass a float32 tensor of rows x blocks")
    blocks = -(-cols // block)
    if scales.shape[1] != blocks or scales.shape[0] not in (1, rows):
        raise FormatError(
            f"scales of shape {tuple(scales.shape)} do not fit {rows} rows of {blocks} blocks",
            "pass one scale a block, or one row of scales that all rows share",
        )


def check_finite_scales(scales: Tensor) -> None:
    if not bool(scales.isfinite().all()):
        raise FormatError("a scale is NaN or infinite", "look for NaN or overflow in the weights")


def check_weights(weights: Tensor) -> None:
    if weights.ndim != 2 or not weights.is_floating_point():
        raise FormatError(f"the weights are {_described(weights)}", "pass a floating-point tensor of rows x columns")


def check_inputs(inputs: Tensor, rows: int) -> None:
    if inputs.ndim != 2 or inputs.dtype not in (torch.float32, torch.bfloat16) or not inputs.numel():
        raise FormatError(
            f"the inputs are {_described(inputs)}", "pass a float32 or bfloat16 tensor of batch x columns, not empty"
        )
    if rows < 1:
        raise FormatError(f"a product has {rows} rows", "pass at least one row of weights")


def check_output(dtype: torch.dtype) -> None:
    if dtype not in (torch.float32, torch.bfloat16):
        raise FormatError(f"values cannot be written as {dtype}", "use torch.float32 or torch.bfloat16")


def check_separable(codes: Tensor, row_step: Tensor, column_step: Tensor, reconstruction: Tensor | None) -> None:
    if codes.ndim != 2 or codes.dtype not in (torch.int8, torch.int16):
        raise FormatError(f"the grid codes are {_described(codes)}", "pass an int8 or int16 tensor of rows x columns")
    for name, step, side in (("row", row_step, codes.shape[0]), ("column", column_step, codes.shape[1])):
        if step.dtype != torch.float32 or step.shape != (side,):
            raise FormatError(f"the {name} steps are {_described(step)}", f"pass {side} float32 numbers")
    if reconstruction is not None:
        odd_row = reconstruction.ndim == 1 and reconstruction.numel() % 2 == 1
        if reconstruction.dtype != torch.float32 or not odd_row:
            raise FormatError(
                f"the reconstruction points are {_described(reconstruction)}",
                "pass an odd number of float32 points, the middle one for code 0",
            )


def check_trellis_weights(scaled: Tensor, context: Tensor, cost: Tensor, states: int) -> None:
    polynomials(states)
    if scaled.dtype != torch.float32 or scaled.ndim != 2:
        raise FormatError(f"the scaled weights are {_described(scaled)}", "pass a float32 tensor of rows x columns")
    if context.dtype != torch.uint8 or context.shape != scaled.shape:
        raise FormatError(f"the contexts are {_described(context)}", "pass one uint8 number for each weight")
    fits = cost.ndim == 3 and cost.shape[0] == 2 and cost.shape[1] >= 1 and 2 <= cost.shape[2] <= LARGEST + 1
    if cost.dtype != torch.float32 or not fits:
        raise FormatError(
            f"the costs are {_described(cost)}", f"pass float32 [2, contexts, 2 to {LARGEST + 1} sizes of an index]"
        )
    if context.numel() and int(context.max()) >= cost.shape[1]:
        raise FormatError(f"a context is not below {cost.shape[1]}", "pass the costs of every context")
    if bool(scaled.isnan().any()):
        raise FormatError("a scaled weight is NaN", "look for NaN in the weights and for steps of 0")
    if not bool(cost.isfinite().all()):
        raise FormatError("a cost is NaN or infinite", "give an index that never occurs a large cost instead")


def check_trellis_indices(indices: Tensor, states: int) -> None:
    polynomials(states)
    if indices.ndim != 2 or indices.dtype not in (torch.int8, torch.int16):
        raise FormatError(
            f"the trellis indices are {_described(indices)}", "pass an int8 or int16 tensor of rows x columns"
        )


def check_shift_weights(scaled: Tensor, table: Tensor, bits: int) -> None:
    _check_shift_table(table, bits)
    if scaled.dtype != torch.float32 or scaled.ndim != 2:
        raise FormatError(f"the scaled weights are {_described(scaled)}", "pass a float32 tensor of rows x columns")
    if bool(scaled.isnan().any()):
        raise FormatError("a scaled weight is NaN", "look for NaN in the weights and for scales of 0")


def check_shift_codes(codes: Tensor, table: Tensor, bits: int, rows: int, column: Tensor) -> None:
    _check_shift_table(table, bits)
    if codes.dtype != torch.uint8 or codes.ndim != 2:
        raise FormatError(f"the streams are {_described(codes)}", "pass a uint8 tensor of columns x bytes")
    if rows < 0 or codes.shape[1] < column_bytes(rows, bits):
        problem = f"{rows} rows of {bits} bits do not fit streams of {codes.shape[1]} bytes"
        raise FormatError(problem, "the tensor is damaged or its shape is wrong")
    if column.dtype != torch.float32 or column.shape != codes.shape[:1]:
        raise FormatError(f"the column scales are {_described(column)}", f"pass {len(codes)} float32 numbers")


def _check_shift_table(table: Tensor, bits: int) -> None:
    if table.dtype != torch.float32 or table.ndim != 1:
        raise FormatError(f"the table is {_described(table)}", "pass one float32 value for each state")
    check_trellis(table.numel(), bits)
    if not bool(table.isfinite().all()):
        raise FormatError("a value of the table is NaN or infinite", "fit it to finite weights")


def check_devices(*tensors: Tensor | None) -> None:
    devices = {tensor.device for tensor in tensors if tensor is not None}
    if len(devices) > 1:
        listed = ", ".join(sorted(str(device) for device in devices))
        raise FormatError(f"the tensors lie on different devices ({listed})", "move them to one device")


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
