"""`octavo generate`: let a model continue a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from octavo.base.units import format_size
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
    cache: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help="Format of old keys and values: one for both, or KEYS/VALUES."),
    ] = None,
) -> None:
    """Let a model continue a text; tokens are printed as they come."""
    from octavo.hub.generate import generate as pieces

    if cache is None:
        _print_pieces(pieces(model, prompt, tokens, temperature, seed, chat=chat, device=device))
        return
    from octavo.models import load_language_model
    from octavo.models.cache import QuantizedCache
    from octavo.models.cache_format import CacheFormat

    format = CacheFormat.parse(cache)
    loaded = load_language_model(model)
    network = loaded[0].to(device)
    kept = QuantizedCache(network.config, format)
    _print_pieces(pieces(loaded, prompt, tokens, temperature, seed, chat=chat, cache=kept))
    memory = kept.memory()
    packed = f"{memory.packed_tokens} of {memory.tokens} tokens packed, {memory.packed_bits:.2f} bits a number"
    sizes = f"{format_size(memory.bytes)} with recent tokens; in bfloat16 {format_size(memory.bfloat16_bytes)}"
    typer.echo(f"cache: {packed}; {sizes}", err=True)


def _print_pieces(pieces: Iterable[str]) -> None:
    for piece in pieces:
        typer.echo(printable(piece), nl=False)
    typer.echo()
