"""What the files of an octavo checkpoint hold, read from their headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from octavo.base.errors import CheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Header:
    """Shape and dtype of one entry of a safetensors file."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def empty(self) -> Tensor:
        """A tensor of this kind on the meta device: it costs nothing."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


def read_headers(files: Sequence[str | Path]) -> dict[str, Header]:
    """Shape and dtype of every entry of `files`; CheckpointError for a file that is not whole safetensors."""
    headers: dict[str, Header] = {}
    for file in files:
        try:
            with safe_open(str(file), framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    entry = opened.get_slice(name)
                    kind = entry.get_dtype()
                    if kind not in DTYPES:
                        raise CheckpointError(f"{file}: entry {name} has the unknown dtype {kind}", "update octavo")
                    headers[name] = Header(tuple(entry.get_shape()), DTYPES[kind])
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file} is not a whole safetensors file ({error})", "copy or compress the model again"
            ) from error
    return headers
