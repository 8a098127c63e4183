"""Whatever is done to a safetensors file, reading it gives the same tensors or one kind of error."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo.base.errors import CheckpointError
from octavo.checkpoints.checkpoint import Entry
from octavo.checkpoints.dtypes import DTYPE_OF
from octavo.checkpoints.raw import bytes_of
from octavo.checkpoints.safetensors import header_bytes, open_safetensors
from octavo.checkpoints.strict_json import MAX_BYTES

FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DTYPES = [torch.float32, torch.bfloat16, torch.uint8, torch.bool, torch.int64, torch.float8_e4m3fn]

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
described = st.dictionaries(names, st.tuples(st.sampled_from(DTYPES), shapes), max_size=5)


def filled(content: dict[str, tuple[torch.dtype, tuple[int, ...]]]) -> dict[str, torch.Tensor]:
    return {
        name: (torch.arange(math.prod(shape)) % 2).to(dtype).reshape(shape) for name, (dtype, shape) in content.items()
    }


def save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    entries = {name: Entry(tensor.dtype, tuple(tensor.shape), tensor.nbytes) for name, tensor in tensors.items()}
    header, order = header_bytes(entries, {"format": "pt"})
    path.write_bytes(header + b"".join(bytes(bytes_of(tensors[name])) for name in order))


def equal(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and bytes_of(left) == bytes_of(right)


@FUZZ
@given(described)
def test_what_we_write_the_reference_reads(tmp_path: Path, content: dict[str, Any]) -> None:
    tensors = filled(content)
    save(tmp_path / "a.safetensors", tensors)
    loaded = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(equal(loaded[name], tensor) for name, tensor in tensors.items())


@FUZZ
@given(described)
def test_what_the_reference_writes_we_read(tmp_path: Path, content: dict[str, Any]) -> None:
    tensors = filled(content)
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    file = open_safetensors(tmp_path / "a.safetensors")
    assert file.entries.keys() == tensors.keys()
    assert all(equal(file.read(name), tensor) for name, tensor in tensors.items())
    assert file.metadata == {"format": "pt"}


@pytest.mark.parametrize("name", sorted(DTYPE_OF))
def test_every_dtype_round_trips(tmp_path: Path, name: str) -> None:
    tensor = (torch.arange(64) % 2).to(DTYPE_OF[name])
    save(tmp_path / "a.safetensors", {"a": tensor})
    assert equal(open_safetensors(tmp_path / "a.safetensors").read("a"), tensor)


def read_all(path: Path) -> dict[str, torch.Tensor] | None:
    """All tensors, or None where the one allowed error was raised; its message is one line."""
    try:
        file = open_safetensors(path)
        return {name: file.read(name) for name in file.entries}
    except CheckpointError as error:
        if "\n" in str(error):
            pytest.fail("the message is longer than a line")
        return None


SAMPLE = filled({"a.weight": (torch.float32, (2, 3)), "b": (torch.bool, (5,)), "c": (torch.bfloat16, (4,))})


@FUZZ
@given(st.data())
def test_damaged_bytes(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.safetensors"
    save(path, SAMPLE)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(content) - 1))
        action = data.draw(st.sampled_from(["flip", "cut", "insert", "delete"]))
        if action == "flip":
            content[position] ^= data.draw(st.integers(1, 255))
        elif action == "cut":
            del content[max(position, 1) :]
        elif action == "insert":
            content[position:position] = data.draw(st.binary(min_size=1, max_size=9))
        elif len(content) > 1:
            del content[position]
    path.write_bytes(content)
    read = read_all(path)
    # What is read never exceeds what is there: no claim makes memory grow.
    assert read is None or sum(tensor.nbytes for tensor in read.values()) <= len(content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([0, 1, 2**31, 2**62, 2**63, 2**64, -1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=5,
)


@FUZZ
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "__metadata__"]),
        json_values
        | st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "U8", "BOOL", "F4", "", "f32"]) | json_values,
                "shape": st.lists(st.sampled_from([0, 1, 2, 4, 2**31, 2**63, 2**70, -1]), max_size=70) | json_values,
                "data_offsets": st.lists(st.integers(-1, 20), max_size=3) | json_values,
            }
        ),
        max_size=3,
    ),
    st.binary(max_size=16),
)
def test_lying_headers(tmp_path: Path, header: dict[str, Any], body: bytes) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    read = read_all(path)
    assert read is None or sum(tensor.nbytes for tensor in read.values()) == len(body)


@pytest.mark.parametrize(
    ("header", "body", "match"),
    [
        ({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, 1, "'a'.*unknown dtype 'F4'"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 3]}}, 3, "claims 3 bytes where .* need 2"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}, 1, "truncated"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}, 3, "truncated or damaged"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}}, 3, "overlaps another or leaves a gap"),
        ({"a": {"dtype": "U8", "shape": [-2], "data_offsets": [0, 2]}}, 2, "impossible shape"),
        ({"a": {"dtype": "U8", "shape": [2**40, 2**40], "data_offsets": [0, 2]}}, 2, "impossible shape"),
        ({"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}}, 1, "impossible shape"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [2, 0]}}, 2, "impossible data_offsets"),
        ({"a": {"dtype": "U8", "shape": [2]}}, 2, "not described"),
        ({"a": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}}, 2, "truth values"),
        ({"__metadata__": {"a": 1}}, 0, "metadata"),
    ],
)
def test_what_is_said(tmp_path: Path, header: dict[str, Any], body: int, match: str) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text + b"\2" * body)
    with pytest.raises(CheckpointError, match=match):
        open_safetensors(tmp_path / "a").read("a")


@pytest.mark.parametrize("length", [0, 3, MAX_BYTES + 1, 2**63, 2**64 - 1])
def test_header_lengths_that_lie(tmp_path: Path, length: int) -> None:
    (tmp_path / "a").write_bytes(length.to_bytes(8, "little") + b"{}")
    assert read_all(tmp_path / "a") is None


def test_duplicate_keys(tmp_path: Path) -> None:
    claim = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    text = f'{{"a":{claim},"a":{claim}}}'.encode()
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text + b"\0")
    with pytest.raises(CheckpointError, match="'a' appears twice"):
        open_safetensors(tmp_path / "a")


def test_data_is_aligned_and_the_header_does_not_depend_on_order(tmp_path: Path) -> None:
    tensors = filled({"a": (torch.uint8, (3,)), "b": (torch.float32, (5,)), "c": (torch.bfloat16, (1,))})
    save(tmp_path / "one", tensors)
    save(tmp_path / "two", dict(reversed(tensors.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    file = open_safetensors(tmp_path / "one")
    assert file.data_start % 8 == 0
    assert all(start % file.entries[name].dtype.itemsize == 0 for name, start in file.starts.items())
