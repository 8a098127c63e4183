"""`octavo train`: a language model from a config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavo.base.errors import ConfigurationError
from octavo.base.units import format_size
from octavo.cli.console import print_table, say
from octavo.cli.progress import shown

if TYPE_CHECKING:
    from octavo.training.configuration import TrainingConfig

EXAMPLE = """\
# A small language model on the default corpus; some minutes on two cores.
# Every setting can be given on the command line too: --set schedule.warmup=50
steps = 600
seed = 0

[model]
hidden = 128
layers = 4
heads = 4

[data]
# text = ["book.txt", "notes/"]    # default: docstrings of the packages that octavo needs
tokenizer = "bpe"                  # or "bytes", or a tokenizer.json
vocabulary = 2048
length = 128
batch = 8

[optimizer]
learning_rate = 2e-3

[schedule]
name = "cosine"                    # or "wsd", "constant"
warmup = 50

[checkpointing]
every = 200

[logging]
evaluate = 200
"""
STOPPED = 143
"""The exit code after SIGTERM, as the shell has it."""


def train(
    config: Annotated[Path | None, typer.Argument(help="A TOML file; `octavo train --example` prints one.")] = None,
    out: Annotated[
        Path | None,
        typer.Argument(help="The folder of the run. Default: named as the config. A run in there is gone on with."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Change any setting of the config. Repeatable."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Short for --set steps=...")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Short for --set optimizer.learning_rate=...")] = None,
    batch: Annotated[int | None, typer.Option(help="Short for --set data.batch=...")] = None,
    text: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Train on this file or folder. Repeatable.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Short for --set seed=...")] = None,
    device: Annotated[str | None, typer.Option(help="Where to train: cpu, cuda, cuda:1 or auto.")] = None,
    example: Annotated[bool, typer.Option("--example", help="Print a config to start from, and leave.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print sizes and memory, train nothing.")] = False,
) -> None:
    """Train a language model on text.

    The folder of the run gets checkpoints, metrics.jsonl, the tokenized text, and at the end the model, as a Hugging
    Face directory that every other command takes.

    The same command goes on with an interrupted run, to the same result. SIGTERM and Ctrl-C save first.

    Several processes: torchrun --nproc-per-node 2 -m octavo train CONFIG --set distributed.strategy=fsdp
    """
    if example:
        typer.echo(EXAMPLE, nl=False)
        return
    if config is None:
        raise ConfigurationError("CONFIG is missing", "write one with: octavo train --example > small.toml")
    made = _config(config, set_ or [], {
        "steps": steps,
        "optimizer.learning_rate": learning_rate,
        "data.batch": batch,
        "data.text": tuple(text) if text else None,
        "seed": seed,
        "precision.device": device,
    })  # fmt: skip
    if dry_run:
        _print_account(made)
        return
    from octavo.training.running import run

    place = Path(config.stem) if out is None else out
    with shown() as progress:
        done = run(made, place, progress)
    if not done.first:
        return
    result = done.result
    if done.model is None:
        raise typer.Exit(STOPPED)
    rate = f"{result.tokens / result.seconds:,.0f} tokens/s" if result.seconds else ""
    say(f"{result.step} steps, {result.tokens:,} tokens, {result.seconds:.0f} s, {rate}")
    if result.held_out:
        say(f"loss on held-out text {result.held_out[-1][1]:.4f} nats/token")
    say(f"{done.model}: the model, for instance for `octavo generate {done.model} --prompt ...`")


def _config(path: Path, assigned: list[str], options: dict[str, Any]) -> TrainingConfig:
    from octavo.training.configuration import TrainingConfig
    from octavo.training.settings import assignments

    config = TrainingConfig.from_toml(path).changed(assignments(assigned))
    return config.changed({name: value for name, value in options.items() if value is not None})


def _print_account(config: TrainingConfig) -> None:
    from octavo.training.accounting import account
    from octavo.training.running import decoder_config
    from octavo.training.tokenized import vocabulary_size

    model = decoder_config(config, vocabulary_size(config.data))
    found = account(model, config)
    print_table(
        ("of the run", "size"),
        [
            ("parameters", f"{found.parameters:,}"),
            ("of the embedding", f"{found.embedding_parameters:,}"),
            ("tokens to train on", f"{found.tokens:,}"),
            ("tokens a parameter", f"{found.tokens / found.parameters:.3g}"),
            ("operations", f"{found.operations:.3g}"),
            ("memory of weights", format_size(found.weights)),
            ("memory of gradients", format_size(found.gradients)),
            ("memory of the optimizer", format_size(found.optimizer)),
            ("memory of activations", format_size(found.activations)),
            ("memory in all", format_size(found.memory)),
        ],
    )
