"""Which back end runs an op: the fastest that knows it on that device; a slower one is named once in the log."""

from __future__ import annotations

import importlib.util
import logging
from functools import cache
from types import ModuleType
from typing import Protocol, cast

import torch
from torch import Tensor

from octavo.kernels import cpu, reference
from octavo.kernels.cpu import column_codes as cpu_column_codes
from octavo.kernels.cpu import entropy as cpu_entropy
from octavo.kernels.layout import is_power_of_two

_log = logging.getLogger("octavo.kernels")

_FOUND = importlib.util.find_spec("triton") is not None


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

    def trellis_indices(self, scaled: Tensor, context: Tensor, cost: Tensor, states: int) -> Tensor: ...

    def trellis_values(self, indices: Tensor, states: int) -> Tensor: ...

    def trellis_quantizers(self, indices: Tensor, states: int) -> Tensor: ...

    def shift_encode(self, scaled: Tensor, table: Tensor, bits: int) -> Tensor: ...

    def shift_decode(
        self, codes: Tensor, table: Tensor, bits: int, rows: int, scales: Tensor, block: int, column: Tensor
    ) -> Tensor: ...

    def linear(
        self, inputs: Tensor, packed: Tensor, scales: Tensor, codebook: Tensor, block: int, rows: int
    ) -> Tensor: ...

    def shift_linear(
        self,
        inputs: Tensor,
        codes: Tensor,
        table: Tensor,
        bits: int,
        rows: int,
        scales: Tensor,
        block: int,
        column: Tensor,
    ) -> Tensor: ...


def fused_backend(tensor: Tensor, levels: int) -> Backend:
    """The back end that quantizes and packs, or unpacks and dequantizes, an alphabet of `levels` symbols."""
    if tensor.device.type != "cuda":
        return plain_backend(tensor)
    if not is_power_of_two(levels):
        say_once(f"packing {levels} levels on a GPU runs on plain torch: the Triton kernels know powers of two only")
        return cast(Backend, reference)
    return _triton()


def plain_backend(tensor: Tensor) -> Backend:
    """The back end of all other ops, which torch itself runs well enough on a GPU."""
    if tensor.device.type != "cpu":
        return cast(Backend, reference)
    if cpu.MISSING:
        say_once(f"the C++ kernels are not built, so plain torch runs instead, many times slower ({cpu.MISSING})")
        return cast(Backend, reference)
    return cast(Backend, cpu)


def products_on_gpu(tensor: Tensor) -> bool:
    """Whether products with packed weights run in Triton, on the GPU where a tensor lies."""
    return tensor.device.type == "cuda" and _has_triton()


def entropy_backend() -> ModuleType:
    """The back end of entropy coding, which runs on the CPU wherever its tensors go: C++, or constriction."""
    if not cpu.MISSING:
        return cpu_entropy
    say_once(f"the C++ kernels are not built, so entropy decoding is many times slower ({cpu.MISSING})")
    from octavo.kernels.reference import entropy as reference_entropy

    return reference_entropy


def column_codes_backend() -> ModuleType:
    """The back end of codes in columns of unequal width, which are packed on the CPU: C++, or numpy."""
    if not cpu.MISSING:
        return cpu_column_codes
    from octavo.kernels.reference import column_codes as reference_column_codes

    return reference_column_codes


def _triton() -> Backend:
    if not _has_triton():
        return cast(Backend, reference)
    from octavo.kernels import triton

    return cast(Backend, triton)


def _has_triton() -> bool:
    if not _FOUND:
        say_once("triton is not installed, so plain torch runs on the GPU instead, many times slower")
    return _FOUND


@cache
def say_once(line: str) -> None:
    _log.warning(line)
