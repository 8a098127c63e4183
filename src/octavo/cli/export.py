"""`octavo export`: write a model for another program."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from octavo.cli.console import say
from octavo.cli.progress import shown


class Target(StrEnum):
    """What can be written."""

    safetensors_bf16 = "safetensors-bf16"
    gguf = "gguf"


def export(
    model: Annotated[str, typer.Argument(help="A model that octavo compressed, or any that it reads.")],
    out: Annotated[Path, typer.Argument(help="The directory or .gguf file to write; it must not exist yet.")],
    to: Annotated[Target, typer.Option(help="What to write.")] = Target.safetensors_bf16,
) -> None:
    """Write a compressed model as plain bf16 safetensors, or as GGUF where a GGUF type holds its format exactly."""
    from octavo.hub.export import export as write

    with shown() as progress:
        written = write(model, out, to.value, progress=progress)
    say(f"{written} written")
