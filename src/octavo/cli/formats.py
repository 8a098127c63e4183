"""`octavo formats`: the list of number formats, and one of them in figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from octavo.cli.console import print_table, say

formats = typer.Typer(name="formats", no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})


@formats.callback(invoke_without_command=True, epilog="Example: octavo formats")
def list_formats(context: typer.Context) -> None:
    """List the number formats, or show one in figures."""
    if context.invoked_subcommand is not None:
        return


@formats.command(epilog='Example: octavo formats show "cbrt-t(df=5)@3 b64 absmax:bf16"')
def show(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="A format string; quote it.")],
    plot: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Where to save the plot of the centroids over the density.")
    ] = None,
) -> None:
    """Show a format's centroids, its bits per weight and its error on normal, Laplace and Student-t data."""
