"""One safetensors file: 8 bytes of header length, a JSON header, then the tensors' bytes without gaps.

The header is a stranger's claim, so every number in it is checked against the file before a byte is allocated for it.
Layout: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from octavo.base.errors import CheckpointError
from octavo.checkpoints.checkpoint import Entry
from octavo.checkpoints.dtypes import DTYPE_OF, NAME_OF
from octavo.checkpoints.raw import file_size, read_bytes, read_tensor
from octavo.checkpoints.strict_json import MAX_BYTES, parse_object

_MAX_RANK = 64


@dataclass(frozen=True)
class SafetensorsFile:
    """A file whose header has been checked.

    Attributes:
        path: the file.
        entries: dtype, shape and size of each tensor, in the order of their bytes.
        starts: offset in the file of each tensor's first byte.
        data_start: offset of the first tensor's first byte, which is the length of everything before.
        metadata: the header's `__metadata__`.
    """

    path: Path
    entries: Mapping[str, Entry]
    starts: Mapping[str, int]
    data_start: int
    metadata: Mapping[str, str]

    def read(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            CheckpointError: the file has changed since or cannot be read.
        """
        entry = self.entries[name]
        return read_tensor(self.path, self.starts[name], entry.dtype, entry.shape, name)

    def spans(self) -> list[tuple[int, int]]:
        """Byte spans [begin, end): the header's, then each tensor's."""
        return [(0, self.data_start)] + [(start, start + self.entries[n].nbytes) for n, start in self.starts.items()]


def open_safetensors(path: Path) -> SafetensorsFile:
    """Read and check the header of `path`.

    Raises:
        CheckpointError: anything about the file is not as the format demands.
    """
    size = file_size(path)
    if size < 8:
        raise CheckpointError(f"{path} is truncated: {size} bytes are no safetensors file", "fetch the file again")
    length = int.from_bytes(read_bytes(path, 0, 8), "little")
    if length > MAX_BYTES or 8 + length > size:
        raise CheckpointError(
            f"{path} is truncated or damaged: its header claims {length} bytes in a file of {size}", "fetch it again"
        )
    header = parse_object(bytes(read_bytes(path, 8, 8 + length)), f"the header of {path}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path} has metadata that is no map of strings", "fetch the file again")
    spans = {name: _span(name, claim, path) for name, claim in header.items()}
    order = sorted(spans, key=lambda name: (spans[name][1], spans[name][2]))
    position = 0
    for name in order:
        _, begin, end = spans[name]
        if begin != position:
            raise CheckpointError(f"tensor {name!r} in {path} overlaps another or leaves a gap", "fetch the file again")
        position = end
    if 8 + length + position != size:
        raise CheckpointError(
            f"{path} is truncated or damaged: its tensors need {8 + length + position} bytes, the file has {size}",
            "fetch the file again",
        )
    return SafetensorsFile(
        path=path,
        entries={name: spans[name][0] for name in order},
        starts={name: 8 + length + spans[name][1] for name in order},
        data_start=8 + length,
        metadata=metadata,
    )


def header_bytes(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> tuple[bytes, tuple[str, ...]]:
    """The bytes before the tensors, and the order in which the tensors' bytes must follow.

    Keys are sorted; wider dtypes come first, so that every tensor is aligned to its own item size; the header is
    padded with spaces to a multiple of 8 bytes. The result depends on nothing but the arguments.
    """
    order = tuple(sorted(entries, key=lambda name: (-entries[name].dtype.itemsize, name)))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    offsets = {}
    for name in order:
        offsets[name] = [position, position + entries[name].nbytes]
        position += entries[name].nbytes
    for name in sorted(entries):
        entry = entries[name]
        header[name] = {"dtype": NAME_OF[entry.dtype], "shape": list(entry.shape), "data_offsets": offsets[name]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def _span(name: str, claim: Any, path: Path) -> tuple[Entry, int, int]:
    """Entry and [begin, end) of what the header claims of one tensor."""
    where = f"tensor {name!r} in {path}"
    if not isinstance(claim, dict) or set(claim) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where} is not described by dtype, shape and data_offsets", "fetch the file again")
    dtype = DTYPE_OF.get(claim["dtype"]) if isinstance(claim["dtype"], str) else None
    if dtype is None:
        raise CheckpointError(f"{where} has the unknown dtype {claim['dtype']!r}", "convert it to a dtype torch knows")
    shape, offsets = claim["shape"], claim["data_offsets"]
    if (
        not _naturals(shape)
        or len(shape) > _MAX_RANK
        or math.prod(max(d, 1) for d in shape) * dtype.itemsize >= 1 << 63
    ):
        raise CheckpointError(f"{where} has an impossible shape", "fetch the file again")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{where} has impossible data_offsets", "fetch the file again")
    nbytes = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != nbytes:
        raise CheckpointError(
            f"{where} claims {offsets[1] - offsets[0]} bytes where its shape and dtype need {nbytes}",
            "fetch the file again",
        )
    return Entry(dtype, tuple(shape), nbytes), offsets[0], offsets[1]


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
