"""`octavo evaluate`: how far a model has moved from its reference on a text."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from octavo.cli.console import print_table
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
    cache: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help="Format of the model's cache of keys and values: one, or KEYS/VALUES."),
    ] = None,
    length: Annotated[int, typer.Option(min=2, help="Tokens a sequence.")] = 512,
    count: Annotated[int, typer.Option(min=1, help="Sequences.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the places in the text.")] = 0,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda or cuda:1.")] = "cpu",
) -> None:
    """Compare a model with its reference: KL both ways, perplexities and top-1 agreement, with standard errors."""
    from octavo.models.evaluate import evaluate as compare

    with shown() as progress:
        found = compare(
            model,
            reference,
            text,
            length=length,
            count=count,
            by=None if by is None else by.value,
            cache=cache,
            seed=seed,
            device=device,
            progress=progress,
        )
    rows = [
        ("KL(reference ‖ model), nats/token", *_figures(found.kl, found.kl_error)),
        ("KL(model ‖ reference), nats/token", *_figures(found.kl_backward, found.kl_backward_error)),
        ("perplexity of the model", *_figures(found.perplexity, found.perplexity_error)),
        ("perplexity of the reference", *_figures(found.reference_perplexity, found.reference_perplexity_error)),
        ("excess loss, nats/token", *_figures(found.excess_loss, found.excess_loss_error)),
        ("same top token, %", *_figures(100 * found.agreement, 100 * found.agreement_error)),
    ]
    print_table((f"{found.sequences} sequences of {found.length} tokens", "mean", "± standard error"), rows)
    if by is By.position:
        rows = [
            (f"{bin.begin}-{bin.end - 1}", *_figures(bin.forward.mean, bin.forward.error), f"{bin.agreement.mean:.1%}")
            for bin in found.positions
        ]
        print_table(("position", "KL nats/token", "± standard error", "same top token"), rows)
    if by is By.layer:
        rows = [(layer.name, f"{layer.sqnr_db.mean:.2f}", f"{layer.sqnr_db.error:.2f}") for layer in found.layers]
        print_table(("layer", "SQNR dB", "± standard error"), rows)


def _figures(mean: float, error: float) -> tuple[str, str]:
    return f"{mean:.4f}", f"{error:.4f}"
