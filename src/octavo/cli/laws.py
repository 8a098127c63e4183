"""`octavo laws`: fit loss surfaces to runs, and ask them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from octavo.base.errors import LawError, OutputError
from octavo.base.units import format_count, format_size, parse_count, parse_size
from octavo.cli.console import print_table, say
from octavo.cli.progress import shown

HELP = {"help_option_names": ["-h", "--help"]}
EXAMPLE = "octavo laws plan --memory 8GB --tokens 1T"
laws = typer.Typer(name="laws", context_settings=HELP, no_args_is_help=True, epilog=f"Example: {EXAMPLE}")


@laws.callback()
def _laws() -> None:
    """Fit the loss to sizes, tokens and bits, and ask how many parameters at how many bits."""


@laws.command(epilog=f"Example: {EXAMPLE}")
def plan(
    memory: Annotated[str, typer.Option(metavar="SIZE", help="For all weights, e.g. 8GB.")],
    tokens: Annotated[str, typer.Option(metavar="COUNT", help="Of training, e.g. 150B or 1T.")],
    constants: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="kmeans or uniform (published), or a JSON file. Default: kmeans."),
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Fit the constants to one's own runs, a file of JSON lines.")
    ] = None,
    bits: Annotated[str, typer.Option(metavar="LIST", help="Precisions to compare.")] = "1,2,4,8,16",
    scale_bits: Annotated[
        float, typer.Option(min=0, help="Bits of scales per weight that memory pays for, e.g. 0.25.")
    ] = 0.0,
    aspect: Annotated[float, typer.Option(help="Width over number of layers.")] = 128.0,
    vocabulary: Annotated[int, typer.Option(help="Tokens of the vocabulary.")] = 128_256,
    tied: Annotated[bool, typer.Option("--tied", help="One matrix for embedding and head.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Draw it, for a quarter and four times the memory too.")
    ] = None,
) -> None:
    """How many parameters at how many bits make the best use of a memory."""
    if constants is not None and runs is not None:
        raise LawError("--constants and --runs exclude each other", "give one of them")
    size, count = parse_size(memory), parse_count(tokens)
    precisions = _precisions(bits)
    _absent(plot)
    from octavo.laws.memory_plan import Layout, plan_memory
    from octavo.laws.precision import read_law

    if runs is not None:
        from octavo.laws.precision_fit import fit as fit_law
        from octavo.laws.runs import read_runs

        fitted = fit_law(read_runs(runs), resamples=0)
        law = fitted.law
        for flag in fitted.flags:
            say(f"beware: {flag}")
    else:
        law = read_law(constants or "kmeans")
    layout = Layout(aspect=aspect, vocabulary=vocabulary, tied=tied)
    choices = plan_memory(size, count, law, precisions, layout, scale_bits)
    best = choices[0]
    rows = [
        (
            f"{choice.bits:g}",
            format_count(choice.parameters),
            format_count(choice.effective),
            f"{choice.effective / best.effective:.3f}",
            "" if choice.loss is None else f"{choice.loss:.4f}",
            f"{choice.operations:.2e}",
            f"{choice.layers} × {choice.width}",
            format_count(choice.body),
            format_size(choice.bytes),
        )
        for choice in sorted(choices, key=lambda choice: choice.bits)
    ]
    heads = ("bits", "N", "N_eff", "of the best", "loss", "FLOPs", "layers × width", "its body", "its weights")
    print_table(heads, rows, left=())
    say(
        f"{format_size(size)}: {format_count(best.parameters)} parameters at {best.bits:g} bits each, "
        f"which count as {format_count(best.effective)} of full precision"
    )
    for lacking in sorted(set(precisions) - {choice.bits for choice in choices}):
        say(f"no model of {lacking:g} bits fits")
    say("Equal tokens are not equal compute: FLOPs are those of training, 6 N D.")
    if plot is not None:
        from octavo.laws.memory_plot import save_plot

        say(f"plot: {save_plot(plot, size, count, law, layout, scale_bits)}")


@laws.command(epilog="Example: octavo laws fit runs.jsonl --save law.json")
def fit(
    runs: Annotated[
        Path, typer.Argument(metavar="RUNS.jsonl", help="A line with parameters, tokens, bits and loss for each run.")
    ],
    hold: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Do not fit this constant: a, b, e, alpha, beta, gamma. Repeatable."),
    ] = None,
    resamples: Annotated[int, typer.Option(min=0, help="Of the bootstrap over runs.")] = 200,
    level: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals.")] = 0.9,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    save: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Write the constants, for --constants of octavo laws plan.")
    ] = None,
) -> None:
    """Fit L(N, D, P) = A N_eff^-α + B D^-β + E with N_eff = N (1 - e^(-P/γ)) to runs."""
    held = dict(map(_constant, hold or ()))
    _absent(save)
    from octavo.laws.precision_fit import NAMES
    from octavo.laws.precision_fit import fit as fit_law
    from octavo.laws.runs import read_runs

    with shown() as progress:
        found = fit_law(read_runs(runs), hold=held, resamples=resamples, level=level, seed=seed, progress=progress)
    rows = []
    for name in NAMES:
        low, high = found.intervals.get(name, (None, None))
        interval = "held" if name in held else "" if low is None else f"{low:.4g} … {high:.4g}"
        rows.append((name, f"{getattr(found.law, name):.4g}", interval))
    print_table(("constant", "fitted", f"{level:.0%} interval"), rows)
    say(f"{found.runs} runs, root mean square error of log L {found.error:.2g}")
    for flag in found.flags:
        say(f"beware: {flag}")
    if save is not None:
        from octavo.checkpoints.durable import disk_errors, write_durably

        with disk_errors(save):
            write_durably(save, [json.dumps(dataclasses.asdict(found.law), indent=1).encode()])
        say(f"constants: {save}")


def _constant(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip().lower(), float(value)
    except ValueError:
        raise LawError(f"{text!r} holds no constant", "write for instance gamma=3.32") from None


def _precisions(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise LawError(f"{text!r} is no list of bits", "write for instance 1,2,4,8,16") from None


def _absent(path: Path | None) -> None:
    if path is not None and path.exists():
        raise OutputError(f"{path} exists", "give another name, or remove it")
