"""The header of a GGUF file: metadata and where each tensor lies, every claim checked against the file.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little endian).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from octavo.base.errors import CheckpointError
from octavo.checkpoints.gguf.types import BLOCKS, BlockType
from octavo.checkpoints.raw import file_size, read_bytes

T = TypeVar("T")

# The largest tokenizers take some 30 MB; a header that needs more than this is a lie or not for this library.
_MAX_HEADER = 256 << 20
_FIRST_READ = 16 << 20
_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in the file and how it is coded.

    Attributes:
        type: its block format.
        shape: rows first, as torch has it (GGUF lists the fastest dimension first).
        begin: offset of its first byte in the file.
        nbytes: stored bytes.
    """

    type: BlockType
    shape: tuple[int, ...]
    begin: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """A checked header: metadata (arrays of numbers as numpy arrays, of strings as lists) and tensors by GGUF name."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    data_start: int

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """The metadata value of `key`, which must be a `kind`.

        Raises:
            CheckpointError: it is of another kind, or missing where there is no default.
        """
        value = self.metadata.get(key, default)
        if type(value) is not kind:
            raise CheckpointError(f"{self.path} has no usable value for {key}", "fetch the file again")
        return value


def read_header(path: Path) -> Header:
    """Read and check the header of `path`.

    Raises:
        CheckpointError: not GGUF, damaged, truncated, or a tensor of an unknown type.
    """
    size = file_size(path)
    limit = min(size, _MAX_HEADER)
    try:
        try:
            return _parse(path, size, bytes(read_bytes(path, 0, min(limit, _FIRST_READ))))
        except _Truncated:
            if limit <= _FIRST_READ:
                raise
            return _parse(path, size, bytes(read_bytes(path, 0, limit)))
    except _Truncated:
        raise CheckpointError(f"{path} is truncated or damaged within its header", "fetch the file again") from None


class _Truncated(Exception):
    """The bytes at hand end before the header does."""


class _Cursor:
    def __init__(self, data: bytes, path: Path) -> None:
        self.data = data
        self.path = path
        self.position = 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.position:
            raise _Truncated
        self.position += count
        return self.data[self.position - count : self.position]

    def u32(self) -> int:
        return struct.unpack("<I", self.take(4))[0]

    def u64(self) -> int:
        return struct.unpack("<Q", self.take(8))[0]

    def string(self) -> str:
        data = self.take(self.u64())
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise _damaged(self.path, f"a string that is not UTF-8 ({error.reason})") from error

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALARS:
            raise _damaged(self.path, f"a value of unknown type {kind}")
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self.take(dtype.itemsize), dtype)[0].item()

    def array(self) -> Any:
        kind, count = self.u32(), self.u64()
        if kind == _STRING:
            # Each string has at least its length; this bounds the list before it is built.
            if count * 8 > len(self.data) - self.position:
                raise _Truncated
            return [self.string() for _ in range(count)]
        if kind not in _SCALARS:
            raise _damaged(self.path, f"an array of unknown type {kind}")
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)


def _parse(path: Path, size: int, data: bytes) -> Header:
    cursor = _Cursor(data, path)
    if cursor.take(4) != b"GGUF":
        raise CheckpointError(f"{path} is not a GGUF file", "check the path")
    version = cursor.u32()
    if version not in (2, 3):
        raise CheckpointError(f"{path} is GGUF version {version}", "convert it with a current llama.cpp (version 3)")
    tensor_count, value_count = cursor.u64(), cursor.u64()
    metadata: dict[str, Any] = {}
    for _ in range(value_count):
        key = cursor.string()
        if key in metadata:
            raise _damaged(path, f"the key {key!r} twice")
        metadata[key] = cursor.value(cursor.u32())
    claims: list[tuple[str, tuple[int, ...], int, int]] = []
    for _ in range(tensor_count):
        name, rank = cursor.string(), cursor.u32()
        if rank > 4:
            raise _damaged(path, f"tensor {name!r} of {rank} dimensions")
        shape = tuple(cursor.u64() for _ in range(rank))[::-1]
        claims.append((name, shape, cursor.u32(), cursor.u64()))
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise _damaged(path, f"the alignment {alignment!r}")
    data_start = -(-cursor.position // alignment) * alignment
    return Header(path, metadata, _place(path, claims, data_start, alignment, size), data_start)


def _place(
    path: Path, claims: list[tuple[str, tuple[int, ...], int, int]], data_start: int, alignment: int, size: int
) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    free = data_start
    for name, shape, number, offset in sorted(claims, key=lambda claim: claim[3]):
        kind = BLOCKS.get(number)
        if kind is None:
            raise CheckpointError(f"tensor {name!r} in {path} has the unknown GGUF type {number}", "use another file")
        if name in tensors or not shape or 0 in shape or shape[-1] % kind.values:
            raise _damaged(path, f"tensor {name!r} twice or with the impossible shape {shape}")
        nbytes = math.prod(shape) // kind.values * kind.nbytes
        begin = data_start + offset
        if offset % alignment or begin < free:
            raise _damaged(path, f"tensor {name!r} at an offset that is misaligned or overlaps another tensor")
        if begin + nbytes > size:
            raise CheckpointError(f"{path} is truncated: tensor {name!r} ends past its end", "fetch the file again")
        free = begin + nbytes
        tensors[name] = StoredTensor(kind, shape, begin, nbytes)
    return tensors


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: it has {what}", "fetch the file again")
