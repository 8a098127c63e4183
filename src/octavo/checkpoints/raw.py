"""Tensors as plain bytes: reading into them, and seeing them as bytes for writing."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import torch
from torch import Tensor

from octavo.base.errors import CheckpointError

# One read call moves at most about 2 GiB on Linux; smaller steps also let ^C through.
_STEP = 1 << 27


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, in order, without a copy."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


def file_size(path: Path) -> int:
    """Size of a regular file in bytes; links are followed (the Hugging Face cache is made of them).

    Raises:
        CheckpointError: missing, unreadable, or not a regular file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise CheckpointError(f"cannot find {path} ({error.strerror})", "fetch the missing file again") from error
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is not a regular file", "give a checkpoint of plain files")
    return status.st_size


def read_bytes(path: Path, begin: int, end: int) -> bytearray:
    """Bytes [begin, end) of `path`.

    Raises:
        CheckpointError: the file is shorter, or cannot be read.
    """
    data = bytearray(end - begin)
    _read_into(path, begin, memoryview(data))
    return data


def read_tensor(path: Path, begin: int, dtype: torch.dtype, shape: tuple[int, ...], name: str) -> Tensor:
    """The tensor of `dtype` and `shape` whose little-endian bytes start at `begin`; memory is that tensor's own.

    Raises:
        CheckpointError: the file is shorter, cannot be read, or holds a truth value that is neither 0 nor 1.
    """
    tensor = torch.empty(shape, dtype=torch.uint8 if dtype == torch.bool else dtype)
    if tensor.numel():
        _read_into(path, begin, bytes_of(tensor))
    if dtype == torch.bool:
        if bool((tensor > 1).any()):
            raise CheckpointError(f"tensor {name!r} in {path} holds truth values other than 0 and 1", "fetch it again")
        return tensor.view(torch.bool)
    return tensor


def _read_into(path: Path, begin: int, view: memoryview) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            done = 0
            while done < len(view):
                got = os.preadv(descriptor, [view[done : done + _STEP]], begin + done)
                if got == 0:
                    raise CheckpointError(f"{path} is truncated", "fetch the file again")
                done += got
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error.strerror})", "check the path and its disk") from error
