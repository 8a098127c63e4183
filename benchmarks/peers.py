"""What other libraries make of a weight matrix: quantized by them and dequantized, with the bits they store for it.

Each peer is a function of (weight, importance of the columns or None) that runs the library itself in this process:

    llama.cpp       ggml_quantize_chunk of the libggml-base that llama-cpp-python brings, dequantized by `gguf`. Its
                    importance matrix is the mean squared input of each column. Types with blocks of 256 run them across
                    row ends where 256 does not divide the width (llama.cpp itself would fall back to types of more
                    bits), and a tail is filled with zeros of no importance.
    bitsandbytes    quantize_4bit on the CPU, blocks of 64, with single and double quantized scales
    torchao         its primitives for asymmetric int4 in groups of 32, MXFP4 and NVFP4
    hqq             its asymmetric quantizer, float16 scales and zeros for groups of 64 by half-quadratic splitting

    llama.cpp files llama_model_quantize on the whole model: the mixtures of types that its files have, without an
                    importance matrix. (Narrow models make its types with blocks of 256 fall back to wider ones.)

bitsandbytes' blocks run across row ends too. Bits count codes, scales, zeros and per-tensor scales.

    pip install -e ".[peers]"     llama-cpp-python is built from source, a few minutes
    python benchmarks/peers.py    the relative squared error of each peer on normal data
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from octavo.base.errors import OctavoError
from octavo.checkpoints import open_checkpoint
from octavo.hub.export import export

Dequantized = tuple[Tensor, float]
"""The dequantized matrix, float32, and the bits stored for each of its weights."""


@dataclass(frozen=True)
class Peer:
    """A library's format.

    Attributes:
        name: as a table shows it.
        package: what must be importable.
        quantize: (weight [rows, columns], column importance [columns] or None) -> dequantized weight, bits per weight.
        calibrated: whether it heeds the importance; otherwise it is given None.
    """

    name: str
    package: str
    quantize: Callable[[Tensor, Tensor | None], Dequantized]
    calibrated: bool

    @property
    def available(self) -> bool:
        return importlib.util.find_spec(self.package) is not None

    def __call__(
        self, weight: Float[Tensor, "rows columns"], column: Float[Tensor, " columns"] | None = None
    ) -> Dequantized:
        """Quantize and dequantize one matrix.

        Raises:
            OctavoError: a calibrated peer was given no importance.
        """
        if self.calibrated and column is None:
            raise OctavoError(f"{self.name} needs the importance of the columns", "calibrate first")
        with torch.no_grad():
            return self.quantize(weight.float(), column if self.calibrated else None)


def ggml(type_name: str, weight: Tensor, column: Tensor | None) -> Dequantized:
    """llama.cpp's own quantizer of one type, with or without an importance matrix."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    kind = GGMLQuantizationType[type_name]
    block, block_bytes = GGML_QUANT_SIZES[kind]
    rows, columns = weight.shape
    # Where blocks fit into rows, they are the rows' own; otherwise the whole matrix is one row.
    shape = (rows, columns) if columns % block == 0 else (1, math.ceil(weight.numel() / block) * block)
    values = np.zeros(shape, dtype=np.float32)
    values.reshape(-1)[: weight.numel()] = weight.reshape(-1).numpy()
    importance = None
    if column is not None:
        spread = column.float().numpy() if shape[0] == rows else column.float().expand(rows, -1).reshape(-1).numpy()
        importance = np.zeros(shape[1], dtype=np.float32)
        importance[: len(spread)] = spread
    packed = np.empty((shape[0], shape[1] // block * block_bytes), dtype=np.uint8)
    written = _libggml().ggml_quantize_chunk(
        int(kind), _floats(values), packed.ctypes.data, 0, shape[0], shape[1], _floats(importance)
    )
    if written != packed.nbytes:
        raise OctavoError(f"ggml wrote {written} bytes of {type_name} instead of {packed.nbytes}", "check its version")
    found = torch.from_numpy(dequantize(packed, kind).astype(np.float32)).reshape(-1)[: weight.numel()]
    return found.reshape(weight.shape), 8 * block_bytes / block


@cache
def _libggml() -> ctypes.CDLL:
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise OctavoError("llama-cpp-python is not installed", 'pip install "octavo[peers]"')
    library = ctypes.CDLL(str(Path(spec.origin).parent / "lib" / "libggml-base.so"))
    floats = ctypes.POINTER(ctypes.c_float)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        floats,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        floats,
    ]
    return library


def _floats(array: np.ndarray | None) -> ctypes._Pointer[ctypes.c_float] | None:
    return None if array is None else array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def bitsandbytes(kind: str, double: bool, weight: Tensor, column: Tensor | None) -> Dequantized:
    """bitsandbytes' 4-bit types in blocks of 64; `double` quantizes the scales again, to 8 bits in blocks of 256."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weight.contiguous(), blocksize=64, quant_type=kind, compress_statistics=double)
    stored = 8 * packed.nbytes + 8 * state.absmax.nbytes
    if double:
        # The second level: a float32 scale a block of 256, and one offset. Its 256-entry table is in the library.
        stored += 8 * state.state2.absmax.nbytes + 32
    return dequantize_4bit(packed, state).float().reshape(weight.shape), stored / weight.numel()


def torchao_int4(weight: Tensor, column: Tensor | None) -> Dequantized:
    """torchao's asymmetric int4 in groups of 32 along the input axis: bf16 scale and 8-bit zero."""
    from torchao.quantization.quant_primitives import (
        MappingType,
        choose_qparams_affine,
        dequantize_affine,
        quantize_affine,
    )

    padded = _padded(weight, 32)
    block = (1, 32)
    scale, zero = choose_qparams_affine(
        padded,
        MappingType.ASYMMETRIC,
        block,
        torch.uint8,
        0,
        15,
        scale_dtype=torch.bfloat16,
        zero_point_dtype=torch.int8,
    )
    scale = scale.float()
    codes = quantize_affine(padded, block, scale, zero, torch.uint8, 0, 15)
    found = dequantize_affine(codes, block, scale, zero, torch.uint8, 0, 15, output_dtype=torch.float32)
    return _cut(found, weight), (4 + 24 / 32) * padded.numel() / weight.numel()


def torchao_mxfp4(weight: Tensor, column: Tensor | None) -> Dequantized:
    """torchao's MXFP4: blocks of 32 with an E8M0 scale."""
    from torchao.prototype.mx_formats.mx_tensor import MXTensor

    padded = _padded(weight, 32)
    found = MXTensor.to_mx(padded, torch.float4_e2m1fn_x2, 32).dequantize(torch.float32)
    return _cut(found, weight), 4.25 * padded.numel() / weight.numel()


def torchao_nvfp4(weight: Tensor, column: Tensor | None) -> Dequantized:
    """torchao's NVFP4: blocks of 16 with an E4M3 scale, and a float32 scale of the tensor."""
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    padded = _padded(weight, 16)
    scale = per_tensor_amax_to_scale(padded.abs().amax())
    found = NVFP4Tensor.to_nvfp4(padded, per_tensor_scale=scale).dequantize(torch.float32)
    return _cut(found, weight), (4.5 * padded.numel() + 32) / weight.numel()


def half_quadratic(bits: int, weight: Tensor, column: Tensor | None) -> Dequantized:
    """hqq: codes for groups of 64 along the rows."""
    from hqq.core.quantize import Quantizer

    settings = {"group_size": 64, "axis": 1, "round_zero": bits == 4}
    packed, meta = Quantizer.quantize(weight, nbits=bits, device="cpu", compute_dtype=torch.float16, **settings)
    return Quantizer.dequantize(packed, meta).float().view(weight.shape), bits + 32 / 64


FILES = ("Q4_K_M", "Q3_K_M", "Q2_K")
"""Mixtures of llama.cpp that are measured as whole files."""


def llama_cpp_file(mixture: str, reference: Path, names: Sequence[str]) -> tuple[dict[str, Tensor], float]:
    """Some tensors of a model as a llama.cpp file of a mixture holds them, and the bits stored for each weight of them.

    Args:
        mixture: one of `FILES`.
        reference: a dense model of the Llama family.
        names: the tensors, by their names in it.
    """
    import gguf
    import llama_cpp

    with tempfile.TemporaryDirectory() as scratch:
        dense, quantized = Path(scratch) / "dense.gguf", Path(scratch) / "quantized.gguf"
        export(reference, dense, "gguf")
        options = llama_cpp.llama_model_quantize_default_params()
        options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{mixture}")
        if llama_cpp.llama_model_quantize(str(dense).encode(), str(quantized).encode(), ctypes.byref(options)):
            raise OctavoError(f"llama.cpp made no {mixture} file", "see what it printed")
        read = open_checkpoint(quantized)
        tensors = {name: read.read(name).float() for name in names}
        map = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, read.config["num_hidden_layers"])
        wanted = {map.get_name(name, try_suffixes=(".weight",)) for name in names}
        nbytes = sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(quantized).tensors if tensor.name in wanted)
        return tensors, 8 * nbytes / sum(tensor.numel() for tensor in tensors.values())


def _padded(weight: Tensor, block: int) -> Tensor:
    """The matrix with zeros up to a whole number of blocks in each row."""
    return torch.nn.functional.pad(weight, (0, -weight.shape[1] % block)).contiguous()


def _cut(found: Tensor, weight: Tensor) -> Tensor:
    return found[:, : weight.shape[1]].float().contiguous()


def _peers() -> dict[str, Peer]:
    found = []
    for kind in ("Q4_0", "Q4_K", "IQ4_NL", "Q3_K", "Q2_K"):
        found.append(Peer(f"llama.cpp {kind}", "llama_cpp", partial(ggml, kind), False))
    for kind in ("Q4_0", "Q4_K", "IQ4_NL", "Q3_K", "IQ3_XXS", "Q2_K"):
        found.append(Peer(f"llama.cpp {kind} + importance", "llama_cpp", partial(ggml, kind), True))
    for label, kind, double in (("NF4", "nf4", False), ("NF4 double", "nf4", True), ("FP4", "fp4", False)):
        found.append(Peer(f"bitsandbytes {label}", "bitsandbytes", partial(bitsandbytes, kind, double), False))
    for label, function in (("int4 g32", torchao_int4), ("MXFP4", torchao_mxfp4), ("NVFP4", torchao_nvfp4)):
        found.append(Peer(f"torchao {label}", "torchao", function, False))
    for bits in (4, 3, 2):
        found.append(Peer(f"hqq int{bits} g64", "hqq", partial(half_quadratic, bits), False))
    return {peer.name: peer for peer in found}


PEERS: Mapping[str, Peer] = _peers()


if __name__ == "__main__":
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(512, 576, generator=generator)
    columns = torch.ones(576)
    for peer in PEERS.values():
        if not peer.available:
            print(f"{peer.name:32} {peer.package} is not installed")
            continue
        begin = time.perf_counter()
        dequantized, bits = peer(normal, columns)
        error = float((dequantized - normal).square().mean() / normal.square().mean())
        print(f"{peer.name:32}{bits:8.3f} bits{error:10.5f}{time.perf_counter() - begin:8.2f} s")
