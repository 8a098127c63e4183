"""Files that are whole or absent: written beside, synced, then renamed; and what to say when the disk refuses."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from octavo.base.errors import OutputError
from octavo.base.units import format_size

# What a write that was cut short leaves; never taken for a file.
PART = ".part"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turn the system's refusals while writing `out` into one line for the user.

    Raises:
        OutputError: the disk is full or unwritable.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise OutputError(
                f"no space left while writing {out}", "free some and run the same again: it goes on where it stopped"
            ) from error
        raise OutputError(
            f"cannot write {out} ({error.strerror or error}: {error.filename or out})", "check the path and its disk"
        ) from error


def write_durably(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write `path` so that after a crash at any moment it is either absent or whole.

    The caller syncs the directory, once, after its last file.
    """
    part = path.with_name(path.name + PART)
    try:
        with part.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        # On a full disk every byte given back helps.
        part.unlink(missing_ok=True)
        raise


def sync_directory(path: Path) -> None:
    """Make the names in directory `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_directory(path: Path, out: Path) -> Iterator[None]:
    """Hold directory `path`, made if missing, for this process alone; the lock dies with the process.

    Raises:
        OutputError: another process holds it, that is, is writing `out`.
    """
    while True:
        path.mkdir(exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(
                    f"another process is writing {out}", "wait for it, or choose another output"
                ) from None
            # The holder before may have finished and removed the directory between our open and our lock.
            if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
                yield
                return
        finally:
            os.close(descriptor)


def check_space(directory: Path, needed: int) -> None:
    """Refuse early what cannot fit.

    Raises:
        OutputError: less than `needed` bytes are free where `directory` lies.
    """
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise OutputError(
            f"{directory} has {format_size(free)} free, and {format_size(needed)} are needed",
            "free some and run the same again: it goes on where it stopped",
        )
