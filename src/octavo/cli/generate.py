"""`octavo generate`: let a model continue a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from octavo.base.units import format_size
from octavo.cli.arithmetic import ArithmeticOption
from octavo.cli.console import printable
from octavo.cli.keeping import KeepingOption


def generate(
    model: Annotated[str, typer.Argument(help="A model that octavo compressed, or any that it reads.")],
    prompt: Annotated[str, typer.Option(help="The text to continue.")],
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="At most so many tokens.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="Draw from the k likeliest tokens only; 0: from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the fewest tokens that are so likely together.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Draw from tokens that are so likely compared to the likeliest.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: make tokens that occurred less likely.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the draw, where the temperature is above 0.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given several times.")] = None,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda or cuda:1.")] = "cpu",
    chat: Annotated[
        bool, typer.Option("--chat", help="Put the prompt as a question through the chat template.")
    ] = False,
    cache: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help="Format of old keys and values: one for both, or KEYS/VALUES."),
    ] = None,
    arithmetic: ArithmeticOption = "exact",
    keep: KeepingOption = "resident",
    verbose: Annotated[bool, typer.Option("--verbose", help="Say on standard error what runs the model.")] = False,
) -> None:
    """Let a model continue a text; tokens are printed as they come."""
    from octavo.hub.generate import generate as pieces
    from octavo.hub.text_model import load_text_model
    from octavo.models.cache_format import CacheFormat

    format = None if cache is None else CacheFormat.parse(cache)
    loaded = load_text_model(model, device=device, packed_cache=format is not None, arithmetic=arithmetic, keep=keep)
    if verbose:
        typer.echo(f"runs on {loaded.runner}", err=True)
    kept = None
    if format is not None:
        from octavo.models.cache import QuantizedCache

        kept = QuantizedCache(loaded.network.config, format)
    _print_pieces(
        pieces(
            loaded,
            prompt,
            tokens,
            temperature,
            seed,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            stop=stop or (),
            chat=chat,
            cache=kept,
        )
    )
    if kept is None:
        return
    memory = kept.memory()
    packed = f"{memory.packed_tokens} of {memory.tokens} tokens packed, {memory.packed_bits:.2f} bits a number"
    sizes = f"{format_size(memory.bytes)} with recent tokens; in bfloat16 {format_size(memory.bfloat16_bytes)}"
    typer.echo(f"cache: {packed}; {sizes}", err=True)


def _print_pieces(pieces: Iterable[str]) -> None:
    for piece in pieces:
        typer.echo(printable(piece), nl=False)
    typer.echo()
