"""What launches of all product kernels share: which inputs are taken, in what precision, and rows by their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from octavo.kernels.triton.launching import FLOAT32, NARROW, launch

FEW = 4
"""Inputs whose products are computed outside of tensor cores."""

MANY = 64
"""Inputs up to which products of bfloat16 keep the precision of float32 weights."""

LEAST = 16
"""Sides of the smallest tile that tensor cores take."""


@dataclass(frozen=True, eq=False)
class Taken:
    """The columns of the inputs that a part takes; see `octavo.kernels.columns.Columns`."""

    numbers: Tensor | None = None
    factors: Tensor | None = None

    def count(self, inputs: Tensor) -> int:
        """How many columns these are."""
        return inputs.shape[1] if self.numbers is None else self.numbers.numel()

    def tensors(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers and factors, the inputs in the place of what is missing: a kernel does not read it."""
        return inputs if self.numbers is None else self.numbers, inputs if self.factors is None else self.factors

    @property
    def constants(self) -> dict[str, Any]:
        return {"NUMBERS": self.numbers is not None, "FACTORS": self.factors is not None}

    def precision(self, inputs: Tensor) -> dict[str, Any]:
        """Into how many numbers of bfloat16 weights and inputs are split before tensor cores multiply them."""
        if inputs.dtype != torch.bfloat16:
            return {"NARROW": FLOAT32, "WEIGHTS": 1, "INPUTS": 1}
        pieces = 2 if inputs.shape[0] <= MANY else 1
        return {"NARROW": NARROW, "WEIGHTS": pieces, "INPUTS": 1 if self.factors is None else pieces}


def scale_stride(scales: Tensor) -> int:
    """From the scales of a row to those of the next: none where all rows share one row of them."""
    return 0 if scales.shape[0] == 1 else scales.shape[1]


def decoded_rows(
    kernel: object,
    index: Tensor,
    count: int,
    arguments: tuple[Tensor, ...],
    sizes: tuple[int, ...],
    constants: dict[str, int],
) -> Tensor:
    """Rows by their numbers, float32 [index, count], as a kernel decodes them."""
    out = torch.empty(index.numel(), count, dtype=torch.float32, device=index.device)
    if out.numel():
        grid = -(-index.numel() // 16), -(-count // 128)
        launch(kernel, grid, (*arguments, out, index.numel(), *sizes), constants | {"ROWS": 16, "PLACES": 128}, 4, 1)
    return out
