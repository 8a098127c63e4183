"""`octavo evaluate`: how far a model has moved from its reference on a text."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from octavo.cli.console import print_table, say
from octavo.cli.progress import shown


class By(StrEnum):
    """What the loss is split by."""

    layer = "layer"
    position = "position"


def evaluate(
    model: Annotated[str, typer.Argument(help="The model to judge: one that octavo compressed, or any that it reads.")],
    reference: Annotated[str, typer.Option(metavar="REF", help="The original to compare with.")],
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A text file. Default: docstrings of Python's library.")
    ] = None,
    by: Annotated[By | None, typer.Option(help="Also show the loss by layer or by position in the text.")] = None,
    length: Annotated[int, typer.Option(min=2, help="Tokens a sequence.")] = 512,
    count: Annotated[int, typer.Option(min=1, help="Sequences.")] = 8,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda or cuda:1.")] = "cpu",
) -> None:
    """Compare a model with its reference: KL both ways, perplexities and top-1 agreement, with standard errors."""
    import octavo.models.evaluate

    with shown() as progress:
        found = octavo.models.evaluate.evaluate(
            model,
            reference,
            text=text,
            by=by and by.value,
            length=length,
            count=count,
            device=device,
            progress=progress,
        )
    print(found)
