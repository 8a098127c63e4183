"""Outputs of product kernels: one sum for each split of the columns, and all of them added."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from octavo.kernels.triton.launching import launch
from octavo.kernels.triton.parts import sum_kernel

_TILE = 1024


def summed(
    inputs: Tensor, rows: int, splits: int, onto: Tensor | None, run: Callable[[Tensor, Tensor, bool], None]
) -> Tensor:
    """The [batch, rows] sums of a kernel, added to `onto`.

    Args:
        inputs: whose batch and device these are of.
        rows: of the matrix.
        splits: how many sums of each output the kernel stores.
        onto: what they are added to; None for zeros.
        run: the kernel, given what it adds to, where it stores, and whether it adds.
    """
    batch = inputs.shape[0]
    out = torch.empty(batch, rows, dtype=torch.float32, device=inputs.device)
    if splits == 1:
        run(out if onto is None else onto, out, onto is not None)
        return out
    parts = torch.empty(splits, batch, rows, dtype=torch.float32, device=inputs.device)
    run(parts, parts, False)
    grid = (-(-out.numel() // _TILE),)
    arguments = parts, out if onto is None else onto, out, out.numel(), splits
    launch(sum_kernel, grid, arguments, {"ONTO": onto is not None, "TILE": _TILE}, 4, 1)
    return out
