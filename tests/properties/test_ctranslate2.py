"""The benchmark's reader of CTranslate2 files: what was written comes back, and damage ends in an error."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import pytest
import torch

from octavo.base.errors import CheckpointError

SPEC = importlib.util.spec_from_file_location(
    "ctranslate2", Path(__file__).parents[2] / "benchmarks" / "ctranslate2.py"
)
assert SPEC is not None
assert SPEC.loader is not None
ctranslate2 = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(ctranslate2)


def name(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def variable(text: str, tensor: torch.Tensor, kind: int, length: int | None = None) -> bytes:
    data = tensor.numpy().tobytes()
    sides = struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape)
    return name(text) + sides + struct.pack("<BI", kind, len(data) if length is None else length) + data


def model(*variables: bytes, version: int = 6, count: int | None = None) -> bytes:
    head = struct.pack("<I", version) + name("WhisperSpec") + struct.pack("<I", 3)
    return head + struct.pack("<I", len(variables) if count is None else count) + b"".join(variables)


WEIGHT = torch.arange(6, dtype=torch.float16).reshape(2, 3)
SCALAR = torch.tensor(1, dtype=torch.int8)


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(model(variable("a/weight", WEIGHT, 4), variable("b", SCALAR, 1)) + b"aliases")
    found = dict(ctranslate2.read_tensors(path))
    assert list(found) == ["a/weight", "b"]
    torch.testing.assert_close(found["a/weight"], WEIGHT, rtol=0, atol=0)
    torch.testing.assert_close(found["b"], SCALAR, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (model(version=5), "version 5"),
        (model(count=2**31), "claims 2147483648 variables"),
        (model(variable("w", WEIGHT, 9)), "unknown type 9"),
        (model(variable("w", WEIGHT, 4, length=2**32 - 1)), "claims 4294967295 bytes"),
        (model(variable("w", WEIGHT, 0)), "claims 12 bytes"),
        (model(name("w") + bytes([200])), "200 dimensions"),
        (model(name("w") + struct.pack("<B2IBI", 2, 2**16, 2**14, 4, 2**31)), "claims 2147483648 bytes"),
    ],
)
def test_damage_ends_in_an_error(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=says):
        list(ctranslate2.read_tensors(path))


def test_every_truncation_ends_in_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    whole = model(variable("weight", WEIGHT, 4))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            list(ctranslate2.read_tensors(path))
