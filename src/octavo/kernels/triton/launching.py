"""Start a kernel: where tests and the tuning command step in."""

# A kernel is launched by subscripting it with its grid, which its type does not show.
# pyright: reportIndexIssue=false, reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = triton.knobs.runtime.interpret

NARROW = tl.float32 if INTERPRETED else tl.bfloat16
"""What halves of float32 are multiplied as: Triton's interpreter multiplies the bits of bfloat16 as integers."""

FLOAT32 = tl.float32

NARROW_DTYPE = torch.float32 if INTERPRETED else torch.bfloat16


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    arguments: tuple[Tensor | int, ...],
    constants: Mapping[str, Any],
    warps: int,
    stages: int,
) -> None:
    """Run a kernel on the device of its first argument."""
    with on(arguments[0]):
        kernel[grid](*arguments, **constants, num_warps=warps, num_stages=stages)


def on(tensor: Tensor | int) -> AbstractContextManager[object]:
    """The device of a tensor made the current one."""
    cuda = isinstance(tensor, Tensor) and tensor.is_cuda
    return torch.cuda.device(tensor.device) if cuda and isinstance(tensor, Tensor) else nullcontext()
