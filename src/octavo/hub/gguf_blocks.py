"""Quantized tensors as GGUF blocks: the same codes and scales in another byte order, or a refusal.

GGUF's block of 32 weights holds one float16 scale and 32 codes; a weight is table[code] times the scale, in float32.
That is what an octavo format with blocks of 32, float16 scales, no second-level scale, no outliers and the fixed-width
code means, so where the codebook is one of GGUF's tables the two agree bit for bit:

- whole numbers within -8…7: Q4_0 (`int@4 b32 …:fp16` fills it; smaller integers waste its range),
- whole numbers within -128…127: Q8_0,
- the 16 values of `kvalues_iq4nl`: IQ4_NL.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from octavo.base.errors import OctavoError
from octavo.formats.coding.packing import unpack
from octavo.formats.column_groups import ColumnGroups
from octavo.formats.elements.grid import Grid
from octavo.formats.elements.trellis import Trellis
from octavo.formats.lattice.element import VectorElement
from octavo.formats.tensor import QuantizedTensor

BLOCK = 32
IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class Blocks:
    """A matrix in GGUF's blocks.

    Attributes:
        type: name of the GGUF type.
        data: uint8 [rows, bytes of a row].
    """

    type: str
    data: np.ndarray


def to_blocks(name: str, quantized: QuantizedTensor, order: Tensor | None = None) -> Blocks:
    """The GGUF blocks of a quantized matrix.

    Args:
        name: the tensor's name, for messages.
        quantized: the matrix.
        order: rows of the matrix in the order to write them; None keeps it.

    Raises:
        OctavoError: no GGUF type means exactly this.
    """
    refusal = _refusal(quantized)
    codebook = None if refusal else _codebook(quantized)
    kind = None if codebook is None else _type_of(codebook)
    if kind is None or codebook is None:
        reason = refusal or "no GGUF type has its codebook"
        raise OctavoError(
            f"tensor {name} has the format {quantized.format}, which GGUF cannot hold exactly ({reason})",
            "compress with --format 'int@4 b32 search:fp16' (Q4_0) or 'int@8 b32 absmax:fp16' (Q8_0), "
            "or export --to safetensors-bf16",
        )
    rows, columns = quantized.shape
    codes = unpack(quantized.parts["codes"], len(codebook), quantized.numel).view(rows, columns)
    scales = quantized.parts["scales"].expand(rows, columns // BLOCK)
    if order is not None:
        codes, scales = codes[order], scales[order]
    if kind == "IQ4_NL":
        symbols = codes
    else:
        table = torch.tensor(codebook).round().to(torch.int16) + (8 if kind == "Q4_0" else 0)
        symbols = table.to(torch.uint8)[codes.long()]
    blocks = symbols.view(rows, -1, BLOCK).numpy()
    if kind != "Q8_0":
        blocks = blocks[..., :16] | blocks[..., 16:] << 4
    head = np.ascontiguousarray(scales.contiguous().numpy()).view(np.uint8).reshape(rows, -1, 2)
    return Blocks(kind, np.concatenate([head, blocks], axis=-1).reshape(rows, -1))


def _refusal(quantized: QuantizedTensor) -> str | None:
    parts = quantized.parts
    if quantized.format.code != "fixed":
        return "its codes are entropy-coded"
    if isinstance(quantized.format.element, VectorElement):
        return "its codes stand for vectors"
    if len(quantized.shape) != 2:
        return "it is not a matrix"
    if quantized.shape[1] % BLOCK:
        return f"its rows of {quantized.shape[1]} do not divide into blocks of {BLOCK}"
    if not {"codes", "scales"} <= parts.keys() <= {"codes", "scales", "codebook"}:
        return "it has outliers or second-level scales"
    if parts["scales"].dtype != torch.float16 or parts["scales"].shape[-1] != quantized.shape[1] // BLOCK:
        return f"its scales are not one float16 for {BLOCK} weights"
    return None


def _codebook(quantized: QuantizedTensor) -> list[float]:
    """The values of the codes in units of the scale."""
    if "codebook" in quantized.parts:
        return quantized.parts["codebook"].tolist()
    element, scaling = quantized.format.element, quantized.format.scaling
    if isinstance(element, Grid | Trellis | ColumnGroups | VectorElement):
        raise TypeError("grids, trellises, lattices and groups of columns have other parts and were refused before")
    return element.codebook(scaling.base, scaling.block).tolist()


def _type_of(codebook: list[float]) -> str | None:
    if tuple(codebook) == IQ4_NL:
        return "IQ4_NL"
    if any(value != round(value) for value in codebook):
        return None
    low, high = min(codebook), max(codebook)
    if low >= -8 and high <= 7:
        return "Q4_0"
    return "Q8_0" if low >= -128 and high <= 127 else None
