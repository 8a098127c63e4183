"""`octavo bench`: how fast a model makes text, against what the machine's memory allows."""

from __future__ import annotations

from typing import Annotated

import typer

from octavo.base.units import format_size
from octavo.cli.arithmetic import ArithmeticOption
from octavo.cli.console import print_table
from octavo.cli.keeping import KeepingOption


def bench(
    model: Annotated[str, typer.Argument(help="A model that octavo compressed, or any of the Llama family.")],
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 512,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens that are made after it.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements; the median counts.")] = 3,
    arithmetic: ArithmeticOption = "exact",
    keep: KeepingOption = "resident",
) -> None:
    """Measure tokens a second for a prompt and for the answer, bytes read, bandwidth against the roofline, memory."""
    from octavo.base.memory import peak_memory, resident_memory
    from octavo.decoding.speed import measure_speed
    from octavo.hub.stored import open_stored
    from octavo.models.decoder_loading import load_decoder

    stored = open_stored(model)
    before = resident_memory()
    decoder = load_decoder(stored, arithmetic=arithmetic, keep=keep)
    loaded = peak_memory()
    found = measure_speed(decoder, prompt, tokens, repeats)
    rows = [
        ("prompt, tokens/s", f"{found.prefill:.1f}"),
        ("answer, tokens/s", f"{found.decode:.1f}"),
        ("time outside products with weights", f"{found.outside:.1%}"),
        ("time outside all kernels", f"{found.python:.1%}"),
        ("weights read a token", format_size(found.weight_bytes)),
        ("keys and values read a token", format_size(found.cache_bytes)),
        ("bandwidth achieved", f"{found.achieved / 1e9:.1f} GB/s"),
        ("bandwidth of the memory, measured", f"{found.bandwidth / 1e9:.1f} GB/s"),
        ("memory roofline, tokens/s", f"{found.roofline:.1f}"),
        ("share of the roofline", f"{found.decode / found.roofline:.1%}"),
        ("weights in memory", format_size(decoder.nbytes)),
        ("process before loading", format_size(before)),
        ("its peak while loading", format_size(loaded)),
    ]
    print_table((f"{model}: {found.prompt} + {tokens} tokens, {found.threads} threads", "median"), rows)
