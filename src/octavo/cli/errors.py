"""How the program ends when something is wrong: one line on standard error, and an exit code.

2: the user can do something about it (octavo's own errors, the file system's, too little memory);
130: interrupted from the keyboard, as the shell has it. Anything else is a bug and shows its traceback.
"""

from __future__ import annotations

import errno
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from octavo.base.errors import OctavoError

REMEDIES = {
    errno.ENOSPC: "free some space and give the same command again, it goes on where it stopped",
    errno.EDQUOT: "free some space and give the same command again, it goes on where it stopped",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "choose another place to write to",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "give a file, not a folder",
    errno.EADDRINUSE: "choose another --port",
    errno.EADDRNOTAVAIL: "choose an address of this machine as --host",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}


class ErrorGroup(TyperGroup):
    """The group of all commands; it turns errors into one line and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # `--debug` is added at the end of a line that has just failed, so it counts wherever it stands.
        own = args[: args.index("--")] if "--" in args else args
        if "--debug" in own:
            args = ["--debug", *(a for a in own if a != "--debug"), *args[len(own) :]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _stop(ctx, 130, "octavo: interrupted; the same command goes on where it stopped")
        except OctavoError as error:
            _stop(ctx, 2, f"octavo: error: {error}")
        except MemoryError:
            _stop(ctx, 2, "octavo: error: out of memory; close other programs or use fewer --jobs")
        except OSError as error:
            # A closed pipe (`octavo formats | head`) is no error; typer ends quietly on it.
            if error.errno is None or error.errno == errno.EPIPE:
                raise
            _stop(ctx, 2, f"octavo: error: {describe(error)}")


def describe(error: OSError) -> str:
    """An error of the operating system as "problem; remedy"."""
    problem = (error.strerror or str(error)).lower()
    if error.filename is not None:
        problem += f": {error.filename}"
    return f"{problem}; {REMEDIES.get(error.errno or 0, 'see the message of the operating system')}"


def _stop(ctx: Any, code: int, line: str) -> None:
    if ctx.params.get("debug"):
        traceback.print_exc()
    print(" ".join(line.split()), file=sys.stderr)
    raise typer.Exit(code)
