"""`octavo inspect`: what lies in a checkpoint, tensor by tensor."""

from __future__ import annotations

from typing import Annotated

import typer

from octavo.cli.console import print_table
from octavo.cli.progress import shown


def inspect(
    model: Annotated[str, typer.Argument(help="A Hugging Face directory, a .gguf file, a hub name, or smollm2-135m.")],
) -> None:
    """Show shape, dtype or format, bits, RMS, kurtosis and best-fit Student-t degrees of freedom of each tensor."""
    from octavo.hub.inspection import inspect as read

    with shown() as progress:
        found = list(read(model, progress=progress))
    rows = [
        (
            tensor.name,
            "×".join(map(str, tensor.shape)),
            tensor.format,
            f"{tensor.bits:.3f}",
            f"{tensor.rms:.4g}",
            "" if tensor.kurtosis is None else f"{tensor.kurtosis:.2f}",
            "" if tensor.df is None else f"{tensor.df:.1f}",
        )
        for tensor in found
    ]
    print_table(("tensor", "shape", "dtype or format", "bits/weight", "RMS", "kurtosis", "t df"), rows, left=(0, 1, 2))
