"""Every op in plain torch: the definition of its result, bit for bit, on any device."""

from octavo.kernels.reference.codebook import quantize, quantize_pack, unpack_dequantize
from octavo.kernels.reference.linear import linear, shift_linear
from octavo.kernels.reference.packing import pack, unpack
from octavo.kernels.reference.separable import separable_dequantize
from octavo.kernels.reference.shift_trellis import shift_decode, shift_encode
from octavo.kernels.reference.trellis import trellis_indices, trellis_quantizers, trellis_values

__all__ = [
    "linear",
    "pack",
    "quantize",
    "quantize_pack",
    "separable_dequantize",
    "shift_decode",
    "shift_encode",
    "shift_linear",
    "trellis_indices",
    "trellis_quantizers",
    "trellis_values",
    "unpack",
    "unpack_dequantize",
]
