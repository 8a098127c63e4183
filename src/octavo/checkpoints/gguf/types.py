"""GGUF's block formats: their sizes, and what each block's bytes stand for.

The arithmetic is that of ggml's reference, in float32 and in its order, so that values are equal bit for bit
(https://github.com/ggml-org/ggml/blob/master/src/ggml-quants.c, `dequantize_row_*`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from octavo.base.errors import CheckpointError
from octavo.checkpoints.raw import read_bytes, read_tensor

# Blocks decoded at once: bounds the temporary memory to some 30 MB whatever the tensor.
_SLAB = 1 << 16


@dataclass(frozen=True)
class BlockType:
    """A block format: `nbytes` bytes hold `values` values; `dtype` is what they become."""

    name: str
    values: int
    nbytes: int
    dtype: torch.dtype = torch.float32


_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
_SIZES = (
    *((0, "F32", 1, 4), (1, "F16", 1, 2), (28, "F64", 1, 8), (30, "BF16", 1, 2)),
    *((2, "Q4_0", 32, 18), (3, "Q4_1", 32, 20), (6, "Q5_0", 32, 22), (7, "Q5_1", 32, 24), (8, "Q8_0", 32, 34)),
    *((10, "Q2_K", 256, 84), (11, "Q3_K", 256, 110), (12, "Q4_K", 256, 144), (13, "Q5_K", 256, 176)),
    *((14, "Q6_K", 256, 210), (16, "IQ2_XXS", 256, 66), (17, "IQ2_XS", 256, 74), (18, "IQ3_XXS", 256, 98)),
    *((19, "IQ1_S", 256, 50), (20, "IQ4_NL", 32, 18), (21, "IQ3_S", 256, 110), (22, "IQ2_S", 256, 82)),
    *((23, "IQ4_XS", 256, 136), (29, "IQ1_M", 256, 56), (34, "TQ1_0", 256, 54), (35, "TQ2_0", 256, 66)),
    (39, "MXFP4", 32, 17),
)

# By the number that stands in the file.
BLOCKS: MappingProxyType[int, BlockType] = MappingProxyType(
    {
        number: BlockType(name, values, nbytes, _PLAIN.get(name, torch.float32))
        for number, name, values, nbytes in _SIZES
    }
)

# ggml's `kvalues_iq4nl`.
_IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


def read_blocks(path: Path, begin: int, kind: BlockType, shape: tuple[int, ...], name: str) -> Tensor:
    """Read and decode the tensor at `begin`; memory is the result's own plus about 30 MB.

    Raises:
        CheckpointError: the file is shorter or cannot be read; or the type needs the package `gguf`, which is missing.
    """
    if kind.name in _PLAIN:
        return read_tensor(path, begin, kind.dtype, shape, name)
    decode = _DECODERS.get(kind.name) or _peer_decoder(kind, path, name)
    tensor = torch.empty(shape, dtype=torch.float32)
    values = tensor.view(-1, kind.values).numpy()
    for start in range(0, len(values), _SLAB):
        stop = min(start + _SLAB, len(values))
        data = read_bytes(path, begin + start * kind.nbytes, begin + stop * kind.nbytes)
        values[start:stop] = decode(np.frombuffer(data, np.uint8).reshape(-1, kind.nbytes))
    return tensor


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    """The float16 at byte `at` of each block, as a float32 column."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def _nibbles(blocks: np.ndarray, at: int) -> np.ndarray:
    """The 32 four-bit codes from byte `at`: low halves of all 16 bytes first, then the high halves."""
    codes = blocks[:, at : at + 16]
    return np.concatenate([codes & 15, codes >> 4], axis=1)


def _fifth_bits(blocks: np.ndarray, at: int) -> np.ndarray:
    """32 bits from byte `at`, least significant first, worth 16 each."""
    return np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << 4


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    return _half(blocks, 0) * (_nibbles(blocks, 2).astype(np.float32) - 8)


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    return _half(blocks, 0) * _nibbles(blocks, 4).astype(np.float32) + _half(blocks, 2)


def _q5_0(blocks: np.ndarray) -> np.ndarray:
    return _half(blocks, 0) * ((_nibbles(blocks, 6) | _fifth_bits(blocks, 2)).astype(np.float32) - 16)


def _q5_1(blocks: np.ndarray) -> np.ndarray:
    return _half(blocks, 0) * (_nibbles(blocks, 8) | _fifth_bits(blocks, 4)).astype(np.float32) + _half(blocks, 2)


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _iq4_nl(blocks: np.ndarray) -> np.ndarray:
    return _half(blocks, 0) * _IQ4_NL[_nibbles(blocks, 2)]


_DECODERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "IQ4_NL": _iq4_nl,
}


def _peer_decoder(kind: BlockType, path: Path, name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Super-block formats are decoded by llama.cpp's own Python package."""
    try:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError as error:
        raise CheckpointError(
            f"tensor {name!r} in {path} is stored as {kind.name}, which needs the package gguf",
            'pip install "octavo[gguf]"',
        ) from error
    number = GGMLQuantizationType[kind.name]
    return lambda blocks: dequantize(blocks, number)
