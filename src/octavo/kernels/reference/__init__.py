"""Every op in plain torch: the definition of its result, bit for bit, on any device."""

from octavo.kernels.reference.codebook import quantize, quantize_pack, unpack_dequantize
from octavo.kernels.reference.packing import pack, unpack
from octavo.kernels.reference.separable import separable_dequantize

__all__ = ["pack", "quantize", "quantize_pack", "separable_dequantize", "unpack", "unpack_dequantize"]
