"""Which back end runs an op: the fastest that knows it on that device; a slower one is named once in the log."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from octavo.kernels import reference


class Backend(Protocol):
    """The functions that every back end has; what they must return is defined in octavo.kernels.reference."""

    def pack(self, codes: Tensor, levels: int) -> Tensor: ...

    def unpack(self, packed: Tensor, levels: int, count: int) -> Tensor: ...

    def quantize(self, weights: Tensor, scales: Tensor, midpoints: Tensor, block: int) -> Tensor: ...

    def quantize_pack(self, weights: Tensor, scales: Tensor, midpoints: Tensor, block: int, levels: int) -> Tensor: ...

    def unpack_dequantize(
        self, packed: Tensor, scales: Tensor, codebook: Tensor, block: int, rows: int, cols: int, dtype: torch.dtype
    ) -> Tensor: ...

    def separable_dequantize(
        self, codes: Tensor, row_step: Tensor, column_step: Tensor, reconstruction: Tensor | None, dtype: torch.dtype
    ) -> Tensor: ...


def backend_for(tensor: Tensor, levels: int | None) -> Backend:
    """The back end for a tensor's device and an alphabet of `levels` symbols (None: no alphabet is packed)."""
    return reference
