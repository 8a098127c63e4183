"""What config.json says about quantized tensors (docs/checkpoint-layout.md)."""

from __future__ import annotations

from typing import Any

import torch

from octavo.checkpoints.dtypes import plain_name
from octavo.formats.format import Format

VERSION = 1
"""Of the layout."""


def described(format: Format, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Any]:
    """One tensor's entry in `tensors`.

    Args:
        format: of its numbers.
        shape: of the tensor.
        dtype: that it had before.
    """
    return {"format": str(format), "shape": list(shape), "dtype": plain_name(dtype)}


def quantization_config(tensors: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`quantization_config` of quantized tensors by name."""
    return {"quant_method": "octavo", "version": VERSION, "tensors": tensors}
