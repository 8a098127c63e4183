"""`octavo generate`: let a model continue a text."""

from __future__ import annotations

from typing import Annotated

import typer

from octavo.cli.console import printable


def generate(
    model: Annotated[str, typer.Argument(help="A model that octavo compressed, or any that it reads.")],
    prompt: Annotated[str, typer.Option(help="The text to continue.")],
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="At most so many tokens.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the draw, where the temperature is above 0.")] = 0,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda or cuda:1.")] = "cpu",
    chat: Annotated[
        bool, typer.Option("--chat", help="Put the prompt as a question through the chat template.")
    ] = False,
) -> None:
    """Let a model continue a text; tokens are printed as they come."""
    from octavo.hub.generate import generate as pieces

    for piece in pieces(model, prompt, tokens, temperature, seed, chat=chat, device=device):
        typer.echo(printable(piece), nl=False)
    typer.echo()
