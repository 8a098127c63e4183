"""The names safetensors gives to torch's dtypes."""

from __future__ import annotations

from types import MappingProxyType

import torch

_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}

# An older torch lacks the youngest 8-bit floats; tensors of such a dtype are then refused by name.
DTYPE_OF: MappingProxyType[str, torch.dtype] = MappingProxyType(
    {name: getattr(torch, attribute) for name, attribute in _NAMES.items() if hasattr(torch, attribute)}
)
NAME_OF: MappingProxyType[torch.dtype, str] = MappingProxyType({dtype: name for name, dtype in DTYPE_OF.items()})


def plain_name(dtype: torch.dtype) -> str:
    """`bfloat16` for `torch.bfloat16`, as Hugging Face configs write it."""
    return str(dtype).removeprefix("torch.")
