"""`octavo compress`: fold a model into a budget of bits, or show the plan for it."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from octavo.base.errors import BudgetError, OutputError
from octavo.base.units import format_size, parse_size
from octavo.cli.console import print_table, say
from octavo.cli.progress import shown
from octavo.cli.transform import Kind

if TYPE_CHECKING:
    from octavo.compress import Plan


class BudgetOf(StrEnum):
    """Which bits a budget counts: those in the file or those in memory."""

    file = "file"
    memory = "memory"


class Effort(StrEnum):
    """How much work is done: without a text, rounding with feedback, the same with a larger trellis."""

    fast = "fast"
    balanced = "balanced"
    best = "best"


class Sensitivity(StrEnum):
    """How the loss of a rounded weight is judged: by the Fisher information of a text, or alike for all."""

    fisher = "fisher"
    uniform = "uniform"


def compress(
    model: Annotated[
        str, typer.Argument(help="A Hugging Face directory, a .gguf file, a hub name, or smollm2-135m (embedded).")
    ],
    out: Annotated[Path | None, typer.Argument(help="The directory to write; it must not exist yet.")] = None,
    bits: Annotated[float | None, typer.Option(help="Budget: average bits per compressed weight, all counted.")] = None,
    bytes: Annotated[str | None, typer.Option(metavar="SIZE", help="Budget as a size, e.g. 100MB or 1.5GiB.")] = None,
    format: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="One format for all tensors instead of a budget.")
    ] = None,
    budget_of: Annotated[BudgetOf, typer.Option(help="Whether the budget is of the file or of the memory.")] = (
        BudgetOf.file
    ),
    effort: Annotated[
        Effort, typer.Option(help="fast needs no text; balanced feeds errors back; best takes longest.")
    ] = Effort.balanced,
    sensitivity: Annotated[
        Sensitivity | None,
        typer.Option(help="Weigh errors by Fisher information, or all alike. Default: as the effort says."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="TEXT", help="A text file to calibrate on. Default: the help topics of Python."),
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Compress only tensors like this (*, ?). Repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Leave tensors like this as they are. Repeatable.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Tensors compressed at once. Default: one a core.")] = None,
    device: Annotated[str, typer.Option(help="Where to calibrate: cpu, cuda or cuda:1.")] = "cpu",
    tune: Annotated[
        float | None,
        typer.Option(metavar="MINUTES", help="Fine-tune scales, codebooks and norms at the end, for so long."),
    ] = None,
    qat: Annotated[
        int | None,
        typer.Option(metavar="STEPS", min=1, help="Train the weights in their formats at the end, for so many steps."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the calibration's random choices.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, write no model.")] = False,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Follow this plan (as --save-plan wrote it, perhaps edited).")
    ] = None,
    save_plan: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the plan to this JSON file.")] = None,
    transform: Annotated[
        Kind | None, typer.Option(help="Fold these maps in first; `octavo transform` has all settings.")
    ] = None,
    activations: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="Round the inputs of linear layers too, e.g. to mxfp4.")
    ] = None,
) -> None:
    """Fold a model into a budget of bits.

    The budget, as --bits or --bytes, is a hard bound over everything that is stored.

    Instead of it, --format takes one format for all tensors, and --plan follows a saved plan.

    An interrupted run goes on where it stopped when the same command is given again.
    """
    _check(out, dry_run, {"--bits": bits, "--bytes": bytes, "--format": format, "--plan": plan})
    if dry_run and (transform is not None or activations is not None):
        raise OutputError("a plan is of the model as it is", "run `octavo transform` first, and plan for what it makes")
    # By `from`: after `import octavo`, the attribute `octavo.compress` is the function.
    from octavo.compress import Plan, Transform
    from octavo.compress import compress as fold
    from octavo.compress import plan as draw_up

    options = {
        "bits": bits,
        "bytes": None if bytes is None else parse_size(bytes),
        "format": format,
        "budget_of": budget_of.value,
        "effort": effort.value,
        "sensitivity": None if sensitivity is None else sensitivity.value,
        "calibration": calibration,
        "include": tuple(include or ()),
        "exclude": tuple(exclude or ()),
        "jobs": jobs,
        "device": device,
        "seed": seed,
    }
    asked = transform is not None or activations is not None
    kind = "none" if transform is None else transform.value
    maps = Transform(kind, activations=activations, seed=seed) if asked else None
    given = None if plan is None else Plan.from_json(plan.read_text(encoding="utf-8"))
    with shown() as progress:
        if dry_run or out is None:
            result = None
            made = given or draw_up(model, learning=qat is not None, progress=progress, **options)
        else:
            retrainer = None
            if qat is not None:
                from octavo.training.precision.retraining import Trainer

                retrainer = Trainer(qat, calibration, seed=seed, device=device, progress=progress)
            others = {"transform": maps, "tune": tune, "retrainer": retrainer}
            result = fold(model, out, plan=given, progress=progress, **others, **options)
            made = result.plan
    if save_plan is not None:
        save_plan.write_text(made.to_json(), encoding="utf-8")
    if result is None:
        _print_plan(made)
        return
    say(
        f"{result.out}: {format_size(result.file_bytes)}, {result.file_bits_per_weight:.3f} bits/weight stored, "
        f"{result.resident_bits_per_weight:.3f} in memory, {result.seconds:.0f} s"
    )
    say(_losses(made))
    if result.tuning:
        say(result.tuning.summary)
    if result.retraining:
        say(result.retraining.summary)
    if result.coverage:
        say(result.coverage)


def _check(out: Path | None, dry_run: bool, targets: dict[str, object]) -> None:
    given = [option for option, value in targets.items() if value is not None]
    if len(given) != 1:
        problem = "no budget is given" if not given else f"{' and '.join(given)} exclude each other"
        raise BudgetError(problem, "give one of --bits, --bytes, --format and --plan")
    if out is None and not dry_run:
        raise OutputError("OUT is missing", "say which directory to write, or add --dry-run to see the plan")


def _print_plan(plan: Plan) -> None:
    rows = [
        (
            entry.name,
            "×".join(map(str, entry.shape)),
            str(entry.format),
            f"{entry.file_bits:.3f}",
            f"{entry.resident_bits:.3f}",
            f"{entry.predicted_loss:.3e}",
            entry.rounding,
        )
        for entry in plan.entries
    ]
    heads = ("tensor", "shape", "format", "bits stored", "bits in memory", "predicted loss", "rounding")
    print_table(heads, rows, left=(0, 1, 2, 6))
    say(f"{plan.file_bits:.3f} bits/weight stored, {plan.resident_bits:.3f} in memory")
    say(_losses(plan))


def _losses(plan: Plan) -> str:
    # Only the Fisher information gives losses a unit; a fixed format has nothing to be compared with.
    unit = " nats/token" if plan.sensitivity != "uniform" else " (squared error)"
    line = f"predicted loss {plan.predicted_loss:.4g}{unit}"
    if not math.isnan(plan.uniform_loss):
        line += f"; the best uniform plan: {plan.uniform_loss:.4g}"
    if plan.gap is not None:
        line += f"; at most {100 * plan.gap:.2g} % above the best choice of formats"
    return line
