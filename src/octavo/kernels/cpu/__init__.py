"""The ops in C++: vectorized for AVX2 or AVX-512 where the processor has it, over as many threads as torch uses.

The extension `_native` checks every size itself and raises ValueError. It is absent where the package was installed
without a C++20 compiler; `MISSING` then says why.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.kernels.layout import packed_bytes
from octavo.kernels.shift_trellis import column_bytes
from octavo.kernels.trellis import polynomials


def _load() -> tuple[ModuleType | None, str]:
    try:
        return importlib.import_module("octavo.kernels.cpu._native"), ""
    except ModuleNotFoundError:
        return None, "octavo was installed without a C++20 compiler"
    except ImportError as error:
        return None, str(error)


_native, MISSING = _load()


def instruction_set() -> str:
    """ "AVX-512", "AVX2" or "portable"."""
    return _extension().instruction_set()


def pack(codes: Tensor, levels: int) -> Tensor:
    packed = torch.empty(packed_bytes(codes.numel(), levels), dtype=torch.uint8)
    try:
        _extension().pack(codes, levels, packed, torch.get_num_threads())
    except ValueError as error:
        raise FormatError(str(error), "quantize with the codebook that the codes are packed for") from None
    return packed


def unpack(packed: Tensor, levels: int, count: int) -> Tensor:
    codes = torch.empty(count, dtype=torch.uint8)
    _extension().unpack(packed, levels, codes, torch.get_num_threads())
    return codes


def quantize(weights: Tensor, scales: Tensor, midpoints: Tensor, block: int) -> Tensor:
    # An alphabet of 256 levels packs one code a byte.
    return quantize_pack(weights, scales, midpoints, block, 256).view(weights.shape)


def quantize_pack(
    weights: Tensor, scales: Tensor, midpoints: Tensor, block: int, levels: int, portable: bool = False
) -> Tensor:
    packed = torch.empty(packed_bytes(weights.numel(), levels), dtype=torch.uint8)
    threads = torch.get_num_threads()
    _extension().quantize_pack(weights.detach(), scales.detach(), midpoints, block, levels, packed, threads, portable)
    return packed


def unpack_dequantize(
    packed: Tensor,
    scales: Tensor,
    codebook: Tensor,
    block: int,
    rows: int,
    cols: int,
    dtype: torch.dtype,
    portable: bool = False,
) -> Tensor:
    values = torch.empty(rows, cols, dtype=dtype)
    threads = torch.get_num_threads()
    _extension().unpack_dequantize(packed, scales.detach(), codebook.detach(), block, values, threads, portable)
    return values


def separable_dequantize(
    codes: Tensor,
    row_step: Tensor,
    column_step: Tensor,
    reconstruction: Tensor | None,
    dtype: torch.dtype,
    portable: bool = False,
) -> Tensor:
    values = torch.empty(codes.shape, dtype=dtype)
    points = None if reconstruction is None else reconstruction.detach()
    steps = row_step.detach(), column_step.detach()
    _extension().separable_dequantize(codes, *steps, points, values, torch.get_num_threads(), portable)
    return values


def trellis_indices(scaled: Tensor, context: Tensor, cost: Tensor, states: int, portable: bool = False) -> Tensor:
    indices = torch.empty(scaled.shape, dtype=torch.int16)
    inputs = scaled.detach(), context, cost.detach()
    trellis = states, *polynomials(states)
    _extension().trellis_indices(*inputs, *trellis, indices, torch.get_num_threads(), portable)
    return indices


def trellis_values(indices: Tensor, states: int, portable: bool = False) -> Tensor:
    values = torch.empty(indices.shape, dtype=torch.int16)
    _extension().trellis_decode(indices, states, *polynomials(states), values, torch.get_num_threads(), portable)
    return values


def trellis_quantizers(indices: Tensor, states: int, portable: bool = False) -> Tensor:
    found = torch.empty(indices.shape, dtype=torch.uint8)
    _extension().trellis_decode(indices, states, *polynomials(states), found, torch.get_num_threads(), portable)
    return found


def shift_encode(scaled: Tensor, table: Tensor, bits: int, portable: bool = False) -> Tensor:
    rows, columns = scaled.shape
    codes = torch.empty(columns, column_bytes(rows, bits), dtype=torch.uint8)
    _extension().shift_encode(scaled.detach(), table.detach(), bits, codes, torch.get_num_threads(), portable)
    return codes


def shift_decode(
    codes: Tensor,
    table: Tensor,
    bits: int,
    rows: int,
    scales: Tensor,
    block: int,
    column: Tensor,
    portable: bool = False,
) -> Tensor:
    values = torch.empty(rows, len(codes), dtype=torch.float32)
    factors = scales.detach(), block, column.detach()
    _extension().shift_decode(codes, table.detach(), bits, *factors, values, torch.get_num_threads(), portable)
    return values


def linear(
    inputs: Tensor,
    packed: Tensor,
    scales: Tensor,
    codebook: Tensor,
    block: int,
    rows: int,
    arithmetic: str = "exact",
) -> Tensor:
    product = new_product(rows, inputs.shape[1])
    product.add_codes(packed, inputs.shape[1], codebook.detach(), scales.detach(), block, None, None)
    return multiply(product, inputs, rows, arithmetic)


def shift_linear(
    inputs: Tensor,
    codes: Tensor,
    table: Tensor,
    bits: int,
    rows: int,
    scales: Tensor,
    block: int,
    column: Tensor,
    arithmetic: str = "exact",
) -> Tensor:
    product = new_product(rows, inputs.shape[1])
    product.add_shift(codes, table.detach(), None, bits, None, scales.detach(), block, None, column.detach())
    return multiply(product, inputs, rows, arithmetic)


def new_product(rows: int, columns: int) -> Any:
    """A sum of parts, none so far (see `octavo.kernels.product`); it holds on to the tensors of its parts."""
    return _extension().Product(rows, columns)


def multiply(product: Any, inputs: Tensor, rows: int, arithmetic: str) -> Tensor:
    """Inputs [batch, columns], float32 or bfloat16, times the transpose of a product's matrix, float32.

    Args:
        product: a sum of parts.
        inputs: contiguous.
        rows: of the matrix.
        arithmetic: one of `octavo.base.arithmetic.Arithmetic`, or "avx2" or "portable" (octavo.kernels.product).
    """
    outputs = torch.empty(inputs.shape[0], rows)
    # Detaching takes longer than a small product's share of the arithmetic.
    product.multiply(inputs.detach() if inputs.requires_grad else inputs, outputs, torch.get_num_threads(), arithmetic)
    return outputs


def product_rows(product: Any, index: Tensor) -> Tensor:
    """Rows [count, columns] of a product's matrix, float32.

    Raises:
        FormatError: there is no such row.
    """
    outputs = torch.empty(len(index), product.columns)
    try:
        product.rows(index, outputs)
    except ValueError as error:
        raise FormatError(str(error), "give numbers of rows") from None
    return outputs


def product_dense(product: Any, begin: int, end: int, dtype: torch.dtype) -> Tensor:
    """Rows begin to end of a product's matrix, float32 or bfloat16."""
    outputs = torch.empty(end - begin, product.columns, dtype=dtype)
    product.dense(begin, outputs, torch.get_num_threads())
    return outputs


def sum_of_memory(numbers: Tensor, threads: int) -> int:
    """The sum of int64 numbers, modulo 2^64, read as fast as the memory delivers them."""
    return _extension().sum_of_memory(numbers, threads)


@dataclass(frozen=True, eq=False)
class Operation:
    """Work on the first rows of buffers that stay where they are, on as many threads as torch uses."""

    native: Any

    def __call__(self, rows: int) -> None:
        self.native(rows, torch.get_num_threads())


def sequence(operations: Sequence[Operation]) -> Operation:
    """Operations one after the other, as one."""
    return Operation(_extension().Sequence(tuple(operation.native for operation in operations)))


def numbered(arrays: Sequence[Tensor], operation: Operation) -> Callable[[Sequence[Sequence[int]]], None]:
    """An operation on rows whose numbers are given (see `octavo.kernels.decoding.numbered`)."""
    native = _extension().Numbers(list(arrays), operation.native)
    return lambda numbers: native(numbers, torch.get_num_threads())


def bound_products(
    products: Sequence[Any], inputs: Tensor, outputs: Tensor, bias: Tensor | None, arithmetic: str, gated: bool
) -> Operation:
    """Products between memory that stays where it is (see `octavo.kernels.product.between` and `gated`)."""
    return Operation(_extension().BoundProducts(tuple(products), inputs, outputs, bias, arithmetic, gated))


def lookup(product: Any, index: Tensor, outputs: Tensor) -> Operation:
    """Rows of a product's matrix (see `octavo.kernels.product.Product.lookup`)."""
    return Operation(_extension().Lookup(product, index, outputs))


def _extension() -> ModuleType:
    if _native is None:
        raise FormatError(
            f"the C++ kernels are not built ({MISSING})", "install octavo where a C++20 compiler is found"
        )
    return _native
