"""From pieces, one file a tensor, to the shards of a Hugging Face directory; a pure function of the pieces."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.checkpoints.checkpoint import Entry
from octavo.checkpoints.directory import SINGLE
from octavo.checkpoints.durable import write_durably
from octavo.checkpoints.safetensors import SafetensorsFile, header_bytes

_CHUNK = 4 << 20
# What transformers writes; some readers refuse a file without it.
_METADATA = {"format": "pt"}


@dataclass(frozen=True)
class Shard:
    """A file to be: its name, and which piece each entry's bytes come from."""

    name: str
    sources: Mapping[str, SafetensorsFile]

    @property
    def entries(self) -> dict[str, Entry]:
        return {name: piece.entries[name] for name, piece in self.sources.items()}

    @property
    def nbytes(self) -> int:
        """Size of the file, header and all."""
        entries = self.entries
        return len(header_bytes(entries, _METADATA)[0]) + sum(entry.nbytes for entry in entries.values())


def plan_shards(pieces: Mapping[str, SafetensorsFile], max_bytes: int) -> tuple[Shard, ...]:
    """Fill shards greedily in the order of the tensors' names; the parts of a tensor stay together.

    A tensor larger than `max_bytes` gets a shard of its own.
    """
    groups: list[dict[str, SafetensorsFile]] = [{}]
    filled = 0
    for name in sorted(pieces):
        size = sum(entry.nbytes for entry in pieces[name].entries.values())
        if groups[-1] and filled + size > max_bytes:
            groups.append({})
            filled = 0
        groups[-1].update(dict.fromkeys(pieces[name].entries, pieces[name]))
        filled += size
    count = len(groups)
    names = [SINGLE] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    return tuple(Shard(name, group) for name, group in zip(names, groups, strict=True))


def write_shard(folder: Path, shard: Shard) -> None:
    """Write one shard into `folder`; memory stays at some 4 MiB."""
    write_durably(folder / shard.name, _stream(shard))


def index_of(shards: tuple[Shard, ...]) -> dict[str, Any]:
    """The index that Hugging Face readers find several shards by."""
    owner = {name: shard.name for shard in shards for name in shard.sources}
    total = sum(entry.nbytes for shard in shards for entry in shard.entries.values())
    return {"metadata": {"total_size": total}, "weight_map": owner}


def json_bytes(value: object) -> bytes:
    """`value` as JSON with sorted keys, two spaces of indent and a newline at the end."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _stream(shard: Shard) -> Iterator[bytes]:
    header, order = header_bytes(shard.entries, _METADATA)
    yield header
    for name in order:
        piece = shard.sources[name]
        left = piece.entries[name].nbytes
        with piece.path.open("rb") as file:
            file.seek(piece.starts[name])
            while left:
                chunk = file.read(min(left, _CHUNK))
                if not chunk:
                    raise OSError(0, f"{piece.path} has lost its end")
                left -= len(chunk)
                yield chunk
