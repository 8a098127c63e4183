"""The command line: one file a command. Each parses, calls the library and prints; it holds no logic of its own.

Nothing here imports torch before a command runs, so that `octavo --help` answers at once.
"""

from octavo.cli.application import app, main

__all__ = ["app", "main"]
