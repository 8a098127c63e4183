"""Writing a checkpoint so that it can be interrupted anywhere, by anything, and gone on with.

Beside OUT grows a hidden folder `.OUT.partial`:

    key            which work the pieces belong to; pieces of other work are thrown away. At the very end also the
                   identity of the finished folder, so that a run killed while cleaning up is known to be finished
    pieces/        one small safetensors file a tensor, each synced and renamed when whole
    revised/       pieces that take the place of finished ones, all of them or, after an interruption, none
    assembled/     what becomes OUT: shards streamed from the pieces in the order of their names

At the end `assembled` is renamed to OUT in one step, so OUT is either absent or whole; and since shards depend on the
pieces only, an interrupted run that goes on yields the same bytes as one that was never interrupted. The disk holds the
output twice for a while, and a third time what is revised.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from octavo.base.errors import CheckpointError, OutputError
from octavo.base.progress import SILENT, Progress
from octavo.checkpoints.checkpoint import Entry
from octavo.checkpoints.directory import INDEX
from octavo.checkpoints.durable import check_space, disk_errors, locked_directory, sync_directory, write_durably
from octavo.checkpoints.raw import bytes_of
from octavo.checkpoints.safetensors import SafetensorsFile, header_bytes, open_safetensors
from octavo.checkpoints.shards import index_of, json_bytes, plan_shards, write_shard

_NAME = "tensor"
_NOTE = "note"


class CheckpointWriter:
    """Writes a Hugging Face directory tensor by tensor; use as a context manager.

    Args:
        out: the directory to make; it must not exist.
        key: hash of everything the result depends on (plan and input); pieces of a partial with another are discarded.
        progress: told about discarded pieces and, at the end, about the assembly.
        max_shard_bytes: shards are filled up to this size.

    Raises:
        OutputError: on entering: OUT exists, another process is writing it, or its parent cannot be written.
    """

    def __init__(
        self, out: str | Path, key: str, *, progress: Progress = SILENT, max_shard_bytes: int = 5_000_000_000
    ) -> None:
        self.out = Path(os.path.abspath(Path(out).expanduser()))
        self.partial = self.out.with_name(f".{self.out.name}.partial")
        self._key = hashlib.sha256(key.encode()).hexdigest()
        self._progress = progress
        self._max_shard_bytes = max_shard_bytes
        self._pieces: dict[str, SafetensorsFile] = {}
        self._revised: dict[str, SafetensorsFile] = {}
        self._owner: dict[str, str] = {}
        self._finished = False
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if not self.partial.exists():
            self._refuse_existing()
        with contextlib.ExitStack() as stack, disk_errors(self.out):
            self.out.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked_directory(self.partial, self.out))
            self._finished = self._known_as_finished()
            if not self._finished:
                self._adopt_partial()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors written so far, by this run or by interrupted ones, sorted."""
        return tuple(sorted(self._pieces))

    @property
    def finished(self) -> bool:
        """Whether an earlier run made OUT and was killed while cleaning up; `finish` then only cleans up."""
        return self._finished

    @property
    def nbytes(self) -> int:
        """What the safetensors files would come to if nothing more were written, headers and all."""
        return sum(shard.nbytes for shard in plan_shards(self._pieces, self._max_shard_bytes))

    def done(self, name: str) -> bool:
        """Whether tensor `name` is written already."""
        return self._finished or name in self._pieces

    def read(self, name: str) -> dict[str, Tensor]:
        """The parts of a tensor that is written."""
        piece = self._pieces[name]
        return {entry.removeprefix(name).removeprefix("."): piece.read(entry) for entry in piece.entries}

    def size(self, name: str) -> int:
        """Bytes of a written tensor's parts."""
        return sum(entry.nbytes for entry in self._pieces[name].entries.values())

    def note(self, name: str) -> str:
        """What was noted about a tensor when it was written."""
        return self._pieces[name].metadata.get(_NOTE, "")

    def write(self, name: str, parts: Mapping[str, Tensor], note: str = "") -> None:
        """Store the parts of tensor `name`, as entries `NAME.PART`; the part "" keeps the name itself.

        When this returns, the parts survive a power cut, and so does the note, which `finish` leaves out.

        Raises:
            OutputError: the disk is full or unwritable.
            ValueError: `name` has been written, or an entry has the name of another tensor's.
        """
        entries = _entries(name, parts)
        if name in self._pieces or not entries:
            raise ValueError(f"{name!r} is written already, or has no parts")
        for entry in entries:
            if entry in self._owner:
                raise ValueError(f"entry {entry!r} belongs to both {self._owner[entry]!r} and {name!r}")
        self._adopt(name, self._write_piece("pieces", name, entries, note))

    def revise(self, name: str, parts: Mapping[str, Tensor]) -> None:
        """Let other parts of the same dtypes and shapes take the place of a written tensor's in what `finish` makes.

        An interrupted run loses its revisions and keeps what it wrote: revisions belong together, and some of them
        without the others may be worse than none.

        Raises:
            OutputError: the disk is full or unwritable.
            KeyError: `name` has not been written.
            ValueError: its parts are others.
        """
        entries = _entries(name, parts)
        known = {entry: (e.dtype, e.shape) for entry, e in self._pieces[name].entries.items()}
        if {entry: (tensor.dtype, tuple(tensor.shape)) for entry, tensor in entries.items()} != known:
            raise ValueError(f"{name!r} has other parts than before")
        self._revised[name] = self._write_piece("revised", name, entries, self.note(name))

    def finish(
        self, config: Mapping[str, Any], sidecars: Iterable[Path] = (), files: Mapping[str, str | bytes] | None = None
    ) -> None:
        """Assemble everything written into OUT and remove the partial.

        Args:
            config: becomes config.json.
            sidecars: files to copy under their own names.
            files: further files by name, for instance the plan.

        Raises:
            OutputError: the disk is full or unwritable, or OUT has appeared meanwhile.
            ValueError: nothing was written.
        """
        if not self._finished:
            self._assemble(config, sidecars, files or {})
        # OUT is whole by now; what cannot be removed is litter, not a failure. The key goes last.
        shutil.rmtree(self.partial / "pieces", ignore_errors=True)
        shutil.rmtree(self.partial, ignore_errors=True)

    def _assemble(self, config: Mapping[str, Any], sidecars: Iterable[Path], files: Mapping[str, str | bytes]) -> None:
        if not self._pieces:
            raise ValueError("no tensor was written")
        shards = plan_shards({**self._pieces, **self._revised}, self._max_shard_bytes)
        assembled = self.partial / "assembled"
        with disk_errors(self.out):
            if assembled.exists():
                shutil.rmtree(assembled)
            needed = sum(entry.nbytes for shard in shards for entry in shard.entries.values())
            check_space(self.partial, needed)
            assembled.mkdir()
            for path in sidecars:
                write_durably(assembled / path.name, [path.read_bytes()])
            for name, text in sorted(files.items()):
                write_durably(assembled / name, [text.encode() if isinstance(text, str) else text])
            write_durably(assembled / "config.json", [json_bytes(config)])
            for shard in self._progress.track(shards, "Assembling", len(shards)):
                write_shard(assembled, shard)
            if len(shards) > 1:
                write_durably(assembled / INDEX, [json_bytes(index_of(shards))])
            sync_directory(assembled)
            self._refuse_existing()
            write_durably(self.partial / "key", [f"{self._key}\n{_identity(assembled)}".encode()])
            assembled.rename(self.out)
            sync_directory(self.out.parent)

    def _known_as_finished(self) -> bool:
        """Whether OUT is what this very work has made; anything else that is there is refused."""
        with contextlib.suppress(OSError):
            if (self.partial / "key").read_text() == f"{self._key}\n{_identity(self.out)}":
                return True
        self._refuse_existing()
        return False

    def _refuse_existing(self) -> None:
        if os.path.lexists(self.out):
            raise OutputError(f"{self.out} exists already", "remove it or choose another output")

    def _adopt_partial(self) -> None:
        """Take over the pieces of an interrupted run with the same key; discard everything else."""
        key_path, pieces = self.partial / "key", self.partial / "pieces"
        if not key_path.exists() or key_path.read_text().partition("\n")[0] != self._key:
            if pieces.exists():
                self._progress.message(f"Discarding the partial result of other work in {self.partial}")
            # The old key goes first: without it, what a crash leaves of this is discarded again.
            key_path.unlink(missing_ok=True)
            for child in self.partial.iterdir():
                shutil.rmtree(child) if child.is_dir() else child.unlink()
            write_durably(key_path, [self._key.encode()])
        shutil.rmtree(self.partial / "revised", ignore_errors=True)
        pieces.mkdir(exist_ok=True)
        sync_directory(self.partial)
        for path in sorted(pieces.iterdir()):
            try:
                piece = open_safetensors(path)
                name = piece.metadata.get(_NAME, "")
                if path != self._piece_path("pieces", name):
                    raise CheckpointError(f"{path} is no piece")
            except CheckpointError:
                # Cut short, or damaged since; it is simply made again.
                path.unlink()
            else:
                self._adopt(name, piece)

    def _adopt(self, name: str, piece: SafetensorsFile) -> None:
        self._pieces[name] = piece
        self._owner.update(dict.fromkeys(piece.entries, name))

    def _write_piece(self, folder: str, name: str, entries: Mapping[str, Tensor], note: str) -> SafetensorsFile:
        plain = {entry: tensor.detach().cpu().contiguous() for entry, tensor in entries.items()}
        described = {entry: Entry(t.dtype, tuple(t.shape), t.nbytes) for entry, t in plain.items()}
        header, order = header_bytes(described, {_NAME: name, **({_NOTE: note} if note else {})})
        path = self._piece_path(folder, name)
        with disk_errors(self.out):
            path.parent.mkdir(exist_ok=True)
            write_durably(path, (header, *(bytes_of(plain[entry]) for entry in order)))
            sync_directory(path.parent)
        return open_safetensors(path)

    def _piece_path(self, folder: str, name: str) -> Path:
        # Tensor names may be longer than file names and hold any character.
        return self.partial / folder / f"{hashlib.sha256(name.encode()).hexdigest()[:40]}.safetensors"


def _entries(name: str, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{part}" if part else name: tensor for part, tensor in parts.items()}


def _identity(directory: Path) -> str:
    """What stays of a directory when it is renamed."""
    status = directory.stat()
    return f"{status.st_dev}:{status.st_ino}"
