"""Checkpoints of a run: one safetensors file each, whole or absent, of which the newest few are kept.

    DIRECTORY/step-00000500.safetensors    the model, the optimizer and the hooks by name; numbers in the header
    DIRECTORY/metrics.jsonl                octavo.training.metrics

A file says which config, data and tokenizer it belongs to, so that no run goes on from another's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from octavo.base.errors import CheckpointError, OctavoError
from octavo.checkpoints.checkpoint import Entry
from octavo.checkpoints.durable import PART, check_space, disk_errors, sync_directory, write_durably
from octavo.checkpoints.raw import bytes_of
from octavo.checkpoints.safetensors import SafetensorsFile, header_bytes, open_safetensors
from octavo.checkpoints.strict_json import parse_object
from octavo.training.configuration import TrainingConfig
from octavo.training.processes import Processes
from octavo.training.state import State, whole

VERSION = 1
FREE = (
    "checkpointing.",
    "logging.",
    "distributed.",
    "data.cache",
    "precision.compile",
    "precision.recompute",
    "precision.device",
)
"""Settings that may change when a run is gone on with: they change at most the rounding of what is computed."""

_METADATA = "octavo"
_LOSSES = "losses"
_NAME = re.compile(r"step-(\d{8,})\.safetensors")


@dataclass(frozen=True)
class Position:
    """How far a run is.

    Attributes:
        step: steps that are done.
        seconds: that they took.
        held_out: steps and losses on held-out data.
    """

    step: int = 0
    seconds: float = 0.0
    held_out: tuple[tuple[int, float], ...] = ()


def save(
    directory: Path,
    state: State,
    position: Position,
    losses: Float32[Tensor, " done"],
    config: TrainingConfig,
    identity: Mapping[str, str],
    processes: Processes,
) -> None:
    """Write a checkpoint and remove those that are too old; all processes take part, and the first one writes.

    Memory: one whole tensor.

    Raises:
        OutputError: the disk is full or unwritable; what was there before stays.
    """
    tensors = state.tensors() | {_LOSSES: losses}
    path = directory / f"step-{position.step:08d}.safetensors"
    problem: OctavoError | None = None
    if processes.first:
        described = {
            "version": VERSION,
            "config": config.fields(),
            "identity": dict(identity),
            "world": processes.world,
            "numbers": state.numbers(),
            **asdict(position),
        }
        entries = {
            name: Entry(tensor.dtype, tuple(tensor.shape), tensor.numel() * tensor.element_size())
            for name, tensor in tensors.items()
        }
        header, order = header_bytes(entries, {_METADATA: json.dumps(described)})
        chunks = _chunks(header, order, tensors)
        try:
            with disk_errors(path):
                check_space(directory, len(header) + sum(entry.nbytes for entry in entries.values()))
                write_durably(path, chunks)
                sync_directory(directory)
                for old in _found(directory)[: -config.checkpointing.keep]:
                    old.unlink(missing_ok=True)
        except OctavoError as error:
            problem = error
        # The others gather every tensor, whether it is written or not.
        for _ in chunks:
            pass
    else:
        for name in _order(tensors):
            whole(tensors[name])
    if told := processes.agreed("" if problem is None else problem.problem):
        raise problem or CheckpointError(told)


def load(
    directory: Path, state: State, config: TrainingConfig, identity: Mapping[str, str]
) -> tuple[Position, Tensor] | None:
    """Go on from the newest checkpoint, also with the losses so far; None if there is none.

    Raises:
        CheckpointError: it is damaged, or belongs to another config, text, tokenizer or model.
    """
    found = _found(directory)
    if not found:
        return None
    file = open_safetensors(found[-1])
    described = parse_object(file.metadata.get(_METADATA, "{}").encode(), f"the header of {file.path}")
    if described.get("version") != VERSION:
        raise CheckpointError(f"{file.path} is no checkpoint of this version of octavo", "choose another directory")
    _check_same(file, described, config, identity)
    try:
        position = Position(
            int(described["step"]),
            float(described["seconds"]),
            tuple((int(step), float(loss)) for step, loss in described["held_out"]),
        )
        losses = file.read(_LOSSES)
        numbers = dict(described["numbers"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file.path} is damaged ({error})", "remove it, to go on from the one before") from error
    state.load(tuple(file.entries), file.read, numbers)
    return position, losses


def discard_parts(directory: Path) -> None:
    """Remove what a killed process left half written."""
    for path in directory.glob(f"step-*.safetensors{PART}"):
        path.unlink(missing_ok=True)


def newest(directory: Path) -> Path | None:
    """The newest checkpoint's file."""
    found = _found(directory)
    return found[-1] if found else None


def _found(directory: Path) -> list[Path]:
    paths = [path for path in directory.glob("step-*.safetensors") if _NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: int(path.stem.removeprefix("step-")))


def _check_same(
    file: SafetensorsFile, described: Mapping[str, Any], config: TrainingConfig, identity: Mapping[str, str]
) -> None:
    # Through JSON, so that tuples compare with the lists they became.
    now = json.loads(json.dumps(config.fields()))
    before = described.get("config", {})
    differing = [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not name.startswith(FREE)
    ]
    stored = described.get("identity", {})
    differing += [
        f"the {name} was {stored.get(name)} and is {identity.get(name)}"
        for name in sorted(stored.keys() | identity.keys())
        if stored.get(name) != identity.get(name)
    ]
    if differing:
        raise CheckpointError(
            f"{file.path} belongs to another run: {'; '.join(differing)}",
            "give the same settings and data as before, or another directory",
        )


def _order(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The order in which tensors are gathered, which is that of their bytes in the file."""
    return header_bytes({name: Entry(each.dtype, tuple(each.shape), 0) for name, each in tensors.items()}, {})[1]


def _chunks(header: bytes, order: tuple[str, ...], tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    yield header
    for name in order:
        full = whole(tensors[name])
        yield bytes_of(full) if full.numel() else b""


def as_losses(values: list[float]) -> Float32[Tensor, " done"]:
    """The losses of steps as they are kept."""
    return torch.tensor(values, dtype=torch.float32)
