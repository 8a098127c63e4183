"""`octavo recipes`: published claims, tried at a small scale."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from octavo.base.errors import LawError
from octavo.cli.console import print_table, say
from octavo.cli.progress import shown

HELP = {"help_option_names": ["-h", "--help"]}
recipes = typer.Typer(
    name="recipes", context_settings=HELP, no_args_is_help=True, epilog="Example: octavo recipes run overtraining"
)


@recipes.callback()
def _recipes() -> None:
    """Try published claims at a small scale, and see whether they hold."""


@recipes.command(name="list", epilog="Example: octavo recipes list")
def list_recipes() -> None:
    """List the recipes and the claims they try."""
    from octavo.recipes.registry import RECIPES

    rows = [(name, entry.claim, f"arXiv {entry.source}") for name, entry in RECIPES.items()]
    print_table(("recipe", "claim", "source"), rows, left=(0, 1, 2))


@recipes.command(epilog="Example: octavo recipes run overtraining --tiny")
def run(
    name: Annotated[str, typer.Argument(help="A recipe; octavo recipes list has them.")],
    tiny: Annotated[bool, typer.Option("--tiny", help="Seconds: to see that it works; shows nothing.")] = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="Larger sizes, on a GPU.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where figures, plot and table go. Default: the recipe's name.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Where to train: cpu, cuda or cuda:1. Default: cuda with --gpu, else cpu.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at a time. Default: one a core.")] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Do the runs on this Ray cluster, or start one: local.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
) -> None:
    """Run a recipe: paper beside ours, with intervals and a verdict.

    An interrupted run goes on where it stopped when the same command is given again.
    """
    from octavo.recipes.recipe import Scale
    from octavo.recipes.running import HEADS, cells, run_recipe

    if tiny and gpu:
        raise LawError("--tiny and --gpu exclude each other", "give one of them")
    scale = Scale.tiny if tiny else Scale.gpu if gpu else Scale.default
    out = out or Path(name if scale is Scale.default else f"{name}-{scale}")
    with shown() as progress:
        report = run_recipe(
            name, out, scale, seed=seed, device=device, workers=workers, ray=ray, progress=progress
        )  # fmt: skip
    print_table(HEADS, [cells(line) for line in report.findings.lines], left=(0, 1, 2, 3, 4))
    for note in report.notes:
        say(note)
    say(f"{out}: figures.json, plot.png, table.md; {report.seconds:.0f} s")
