"""The program `octavo`: its commands and its global options."""

from __future__ import annotations

from typing import Annotated

import typer

from octavo.cli.bench import bench
from octavo.cli.chat import chat
from octavo.cli.compress import compress
from octavo.cli.demo import demo
from octavo.cli.errors import ErrorGroup
from octavo.cli.evaluate import evaluate
from octavo.cli.export import export
from octavo.cli.formats import formats
from octavo.cli.generate import generate
from octavo.cli.inspect import inspect
from octavo.cli.laws import laws
from octavo.cli.recipes import recipes
from octavo.cli.serve import serve
from octavo.cli.train import train
from octavo.cli.transform import transform

app = typer.Typer(
    name="octavo",
    cls=ErrorGroup,
    help="Fold a neural network into a fixed budget of bits, and see what was lost.",
    epilog="Start with: octavo demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from octavo import __version__

        typer.echo(f"octavo {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="OCTAVO_DEBUG", help="Show the traceback of errors.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Fold a neural network into a fixed budget of bits, and see what was lost."""


for command, example in (
    (compress, "octavo compress smollm2-135m small --bits 3.0"),
    (evaluate, "octavo evaluate small --reference smollm2-135m"),
    (inspect, "octavo inspect smollm2-135m"),
    (generate, 'octavo generate small --prompt "The capital of France is"'),
    (chat, 'octavo chat small --system "Answer in one sentence."'),
    (serve, "octavo serve small --port 8000 --slots 16"),
    (bench, "octavo bench small"),
    (export, "octavo export small small.gguf --to gguf"),
    (transform, "octavo transform smollm2-135m smooth --kind hadamard --activations mxfp4"),
    (train, "octavo train --example > small.toml, then octavo train small.toml --set schedule.warmup=100"),
    (demo, "octavo demo --out demo --bits 4,3,2"),
):
    app.command(epilog=f"Example: {example}")(command)
app.add_typer(formats)
app.add_typer(laws)
app.add_typer(recipes)


def main() -> None:
    """Run the program on the process's arguments, and exit."""
    app()
