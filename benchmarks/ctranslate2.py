"""Read the tensors of a CTranslate2 `model.bin`: plain structs, every length checked against the file before use.

Layout, little endian: version u32, specification name, revision u32, count u32, then per variable its name, rank u8,
sides u32 each, type u8, bytes u32, data. A name is a u16 length and so many bytes, the last of them zero. Aliases
follow and are not needed here. Nothing is executed or unpickled.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from octavo.base.errors import CheckpointError

VERSION = 6
DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
MOST_VARIABLES = 100_000
MOST_SIDES = 8


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of each variable in file order, one in memory at a time.

    Raises:
        CheckpointError: another version, an unknown type, or a length that does not fit the file.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        version = _number(file, "<I", path)
        if version != VERSION:
            raise CheckpointError(f"{path} has CTranslate2 version {version}", f"use a file of version {VERSION}")
        _name(file, path)
        _number(file, "<I", path)
        count = _number(file, "<I", path)
        if count > MOST_VARIABLES:
            raise CheckpointError(f"{path} claims {count} variables", "download the file again")
        for _ in range(count):
            name = _name(file, path)
            rank = _number(file, "<B", path)
            if rank > MOST_SIDES:
                raise CheckpointError(f"{name} in {path} claims {rank} dimensions", "download the file again")
            shape = [_number(file, "<I", path) for _ in range(rank)]
            kind, length = _number(file, "<B", path), _number(file, "<I", path)
            if kind >= len(DTYPES):
                raise CheckpointError(f"{name} in {path} has the unknown type {kind}", "use a float model")
            dtype = DTYPES[kind]
            if length != math.prod(shape) * dtype.itemsize or length > size - file.tell():
                raise CheckpointError(f"{name} in {path} claims {length} bytes", "download the file again")
            data = bytearray(_bytes(file, length, path))
            yield name, torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)


def _bytes(file: BinaryIO, length: int, path: Path) -> bytes:
    data = file.read(length)
    if len(data) != length:
        raise CheckpointError(f"{path} ends too early", "download the file again")
    return data


def _number(file: BinaryIO, kind: str, path: Path) -> int:
    return struct.unpack(kind, _bytes(file, struct.calcsize(kind), path))[0]


def _name(file: BinaryIO, path: Path) -> str:
    raw = _bytes(file, _number(file, "<H", path), path)
    try:
        return raw.rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} has a name that is no text", "download the file again") from error
