"""One schema an op, with its shape rule; the back end is chosen by device (octavo.kernels.backends)."""

# No postponed annotations here: torch reads the schema from the annotations themselves, also of a wrapped function.
import torch
from torch import Tensor

from octavo.kernels.backends import fused_backend, plain_backend
from octavo.kernels.layout import packed_bytes
from octavo.kernels.shift_trellis import column_bytes


def midpoints_of(codebook: Tensor) -> Tensor:
    """Midpoints of neighboring entries: their mean, rounded once to float32."""
    wide = codebook.double()
    return ((wide[1:] + wide[:-1]) * 0.5).float()


@torch.library.custom_op("octavo::pack", mutates_args=())
def pack(codes: Tensor, levels: int) -> Tensor:
    return plain_backend(codes).pack(codes, levels)


@pack.register_fake
def _(codes: Tensor, levels: int) -> Tensor:
    return codes.new_empty(packed_bytes(codes.numel(), levels))


@torch.library.custom_op("octavo::unpack", mutates_args=())
def unpack(packed: Tensor, levels: int, count: int) -> Tensor:
    return plain_backend(packed).unpack(packed, levels, count)


@unpack.register_fake
def _(packed: Tensor, levels: int, count: int) -> Tensor:
    return packed.new_empty(count)


@torch.library.custom_op("octavo::quantize", mutates_args=())
def quantize(weights: Tensor, scales: Tensor, codebook: Tensor, block: int) -> Tensor:
    return plain_backend(weights).quantize(weights, scales, midpoints_of(codebook), block)


@quantize.register_fake
def _(weights: Tensor, scales: Tensor, codebook: Tensor, block: int) -> Tensor:
    return weights.new_empty(weights.shape, dtype=torch.uint8)


@torch.library.custom_op("octavo::quantize_pack", mutates_args=())
def quantize_pack(weights: Tensor, scales: Tensor, codebook: Tensor, block: int) -> Tensor:
    levels = codebook.numel()
    return fused_backend(weights, levels).quantize_pack(weights, scales, midpoints_of(codebook), block, levels)


@quantize_pack.register_fake
def _(weights: Tensor, scales: Tensor, codebook: Tensor, block: int) -> Tensor:
    # A graph holds for one alphabet: its size, unlike the tensor's, decides the layout.
    return weights.new_empty(packed_bytes(weights.numel(), int(codebook.numel())), dtype=torch.uint8)


@torch.library.custom_op("octavo::unpack_dequantize", mutates_args=())
def unpack_dequantize(
    packed: Tensor, scales: Tensor, codebook: Tensor, block: int, rows: int, cols: int, dtype: torch.dtype
) -> Tensor:
    backend = fused_backend(packed, codebook.numel())
    return backend.unpack_dequantize(packed, scales, codebook, block, rows, cols, dtype)


@unpack_dequantize.register_fake
def _(packed: Tensor, scales: Tensor, codebook: Tensor, block: int, rows: int, cols: int, dtype: torch.dtype) -> Tensor:
    return packed.new_empty(rows, cols, dtype=dtype)


@torch.library.custom_op("octavo::separable_dequantize", mutates_args=())
def separable_dequantize(
    codes: Tensor, row_step: Tensor, column_step: Tensor, reconstruction: Tensor | None, dtype: torch.dtype
) -> Tensor:
    backend = plain_backend(codes)
    return backend.separable_dequantize(codes, row_step, column_step, reconstruction, dtype)


@separable_dequantize.register_fake
def _(
    codes: Tensor, row_step: Tensor, column_step: Tensor, reconstruction: Tensor | None, dtype: torch.dtype
) -> Tensor:
    return codes.new_empty(codes.shape, dtype=dtype)


@torch.library.custom_op("octavo::trellis_indices", mutates_args=())
def trellis_indices(scaled: Tensor, context: Tensor, cost: Tensor, states: int) -> Tensor:
    return plain_backend(scaled).trellis_indices(scaled, context, cost, states)


@trellis_indices.register_fake
def _(scaled: Tensor, context: Tensor, cost: Tensor, states: int) -> Tensor:
    return scaled.new_empty(scaled.shape, dtype=torch.int16)


@torch.library.custom_op("octavo::trellis_values", mutates_args=())
def trellis_values(indices: Tensor, states: int) -> Tensor:
    return plain_backend(indices).trellis_values(indices, states)


@trellis_values.register_fake
def _(indices: Tensor, states: int) -> Tensor:
    return indices.new_empty(indices.shape, dtype=torch.int16)


@torch.library.custom_op("octavo::trellis_quantizers", mutates_args=())
def trellis_quantizers(indices: Tensor, states: int) -> Tensor:
    return plain_backend(indices).trellis_quantizers(indices, states)


@trellis_quantizers.register_fake
def _(indices: Tensor, states: int) -> Tensor:
    return indices.new_empty(indices.shape, dtype=torch.uint8)


@torch.library.custom_op("octavo::shift_encode", mutates_args=())
def shift_encode(scaled: Tensor, table: Tensor, bits: int) -> Tensor:
    return plain_backend(scaled).shift_encode(scaled, table, bits)


@shift_encode.register_fake
def _(scaled: Tensor, table: Tensor, bits: int) -> Tensor:
    return scaled.new_empty(scaled.shape[1], column_bytes(scaled.shape[0], bits), dtype=torch.uint8)


@torch.library.custom_op("octavo::shift_decode", mutates_args=())
def shift_decode(
    codes: Tensor, table: Tensor, bits: int, rows: int, scales: Tensor, block: int, column: Tensor
) -> Tensor:
    return plain_backend(codes).shift_decode(codes, table, bits, rows, scales, block, column)


@shift_decode.register_fake
def _(codes: Tensor, table: Tensor, bits: int, rows: int, scales: Tensor, block: int, column: Tensor) -> Tensor:
    return codes.new_empty(rows, codes.shape[0], dtype=torch.float32)


@torch.library.custom_op("octavo::linear", mutates_args=())
def linear(inputs: Tensor, packed: Tensor, scales: Tensor, codebook: Tensor, block: int, rows: int) -> Tensor:
    return plain_backend(inputs).linear(inputs, packed, scales, codebook, block, rows)


@linear.register_fake
def _(inputs: Tensor, packed: Tensor, scales: Tensor, codebook: Tensor, block: int, rows: int) -> Tensor:
    return inputs.new_empty(inputs.shape[0], rows, dtype=torch.float32)


@torch.library.custom_op("octavo::shift_linear", mutates_args=())
def shift_linear(
    inputs: Tensor, codes: Tensor, table: Tensor, bits: int, rows: int, scales: Tensor, block: int, column: Tensor
) -> Tensor:
    return plain_backend(inputs).shift_linear(inputs, codes, table, bits, rows, scales, block, column)


@shift_linear.register_fake
def _(
    inputs: Tensor, codes: Tensor, table: Tensor, bits: int, rows: int, scales: Tensor, block: int, column: Tensor
) -> Tensor:
    return inputs.new_empty(inputs.shape[0], rows, dtype=torch.float32)
