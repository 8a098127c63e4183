"""`octavo transform`: make a model's weights and activations easier to quantize."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from octavo.cli.console import say
from octavo.cli.progress import shown


class Kind(StrEnum):
    """Which maps are folded in."""

    none = "none"
    hadamard = "hadamard"
    rotation = "rotation"
    latmix = "latmix"


class Family(StrEnum):
    """How learned affine maps are parametrized."""

    lu = "lu"
    qr = "qr"


class Scale(StrEnum):
    """Whether the scales of activations round down, as the specification has it, or up, so that nothing is clipped."""

    floor = "floor"
    ceil = "ceil"


def transform(
    model: Annotated[str, typer.Argument(help="A dense model of the Llama family: directory, .gguf, hub name.")],
    out: Annotated[Path, typer.Argument(help="The directory to write; it must not exist yet.")],
    kind: Annotated[Kind, typer.Option(help="Fixed transforms, learned rotations or learned affine maps.")] = (
        Kind.hadamard
    ),
    activations: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="Round the inputs of linear layers to it, e.g. mxfp4.")
    ] = None,
    scale: Annotated[Scale, typer.Option(help="Rule for the scales of activations.")] = Scale.floor,
    block: Annotated[int | None, typer.Option(min=1, help="Hadamard transforms in blocks, e.g. 32.")] = None,
    online: Annotated[bool, typer.Option(help="Transform the feed-forward's last input as the model runs.")] = True,
    family: Annotated[Family, typer.Option(help="Parametrization of affine maps.")] = Family.lu,
    weights: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="Format of the weights while maps are learned.")
    ] = "mxfp4",
    learn_steps: Annotated[int, typer.Option(min=1, help="Steps of learning.")] = 200,
    learn_minutes: Annotated[float | None, typer.Option(min=0, help="Learn no longer than this.")] = None,
    learn_rate: Annotated[float, typer.Option(min=0, help="Learning rate of the first step.")] = 1e-3,
    learn_bfloat16: Annotated[
        bool, typer.Option("--learn-bfloat16", help="Learn in bfloat16: faster where the processor has it.")
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="TEXT", help="A text file to learn on. Default: the help topics of Python."),
    ] = None,
    sequences: Annotated[int, typer.Option(min=0, help="Calibration sequences of 512 tokens.")] = 16,
    device: Annotated[str, typer.Option(help="Where to learn: cpu, cuda or cuda:1.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of all random choices.")] = 0,
) -> None:
    """Fold transforms into a model's weights, and say how its activations are rounded; then run octavo compress.

    An interrupted run goes on where it stopped when the same command is given again.
    """
    from octavo.compress.transforming import Transform, transform_checkpoint
    from octavo.transforms.learning import Learning

    asked = Transform(
        kind=kind.value,
        family=family.value,
        block=block,
        online=online,
        activations=activations,
        weights=weights or None,
        scale=scale.value,
        learning=Learning(learn_steps, learn_minutes, learn_rate, learn_rate, bfloat16=learn_bfloat16),
        sequences=sequences,
        seed=seed,
    )
    with shown() as progress:
        report = transform_checkpoint(model, out, asked, calibration=calibration, device=device, progress=progress)
    say(f"{report.out} written in {report.seconds:.0f} s; largest condition number {report.condition:.3g}")
    if report.losses:
        few = max(1, len(report.losses) // 10)
        first, last = (sum(part) / few for part in (report.losses[:few], report.losses[-few:]))
        say(f"{len(report.losses)} steps: divergence of the rounded model {first:.4f}, then {last:.4f} nats/token")
    if not math.isnan(report.drift):
        error = "" if math.isnan(report.drift_error) else f" ± {report.drift_error:.1g}"
        say(f"drift before any rounding: {report.drift:.3g}{error} nats/token")
