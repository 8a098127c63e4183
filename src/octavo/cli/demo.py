"""`octavo demo`: the main job from end to end on the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavo.base.errors import BudgetError
from octavo.base.units import format_size
from octavo.cli.console import print_table, say
from octavo.cli.progress import shown

if TYPE_CHECKING:
    from octavo.hub.packed import PackedTensor


def demo(
    out: Annotated[Path, typer.Option(help="Where models and report go; finished work in there is not done again.")] = (
        Path("demo")
    ),
    bits: Annotated[str, typer.Option(help="Budgets in bits per weight, separated by commas.")] = "4,3,2",
) -> None:
    """Compress the embedded model to several budgets, measure what was lost, and write a report."""
    budgets = _budgets(bits)
    from octavo.compress.demo import run_demo

    with shown() as progress:
        data = run_demo(out, HubTools(), bits=budgets, progress=progress)
    heads = ("model", "bits stored", "bits in memory", "file", "KL nats/token", "same top token", "perplexity", "s")
    original = data.original
    rows = [
        (
            original.name,
            f"{original.bits:.2f}",
            f"{original.bits:.2f}",
            format_size(original.file_bytes),
            "",
            "",
            f"{original.perplexity:.2f}",
            "",
            "",
        )
    ]
    rows += [
        (
            result.name,
            f"{result.file_bits:.3f}",
            f"{result.resident_bits:.3f}",
            format_size(result.file_bytes),
            f"{result.divergence:.4f} ± {result.divergence_error:.4f}",
            f"{100 * result.agreement:.1f} ± {100 * result.agreement_error:.1f} %",
            f"{result.perplexity:.2f}",
            f"{result.seconds:.0f}",
            result.format,
        )
        for result in data.results
    ]
    print_table((*heads, "format"), rows, left=(0, 8), title=data.subject)
    for name, sample in ((original.name, original.sample), *((r.name, r.sample) for r in data.results)):
        say(f"{name}: {' '.join(sample.split())}")
    say(f"report: {out / 'report.html'}")


class HubTools:
    """How the demo uses its models: as anyone would, through the hub."""

    def weights(self, model: Any) -> dict[str, PackedTensor]:
        from octavo.hub.packed import packed_tensors

        return {weight.checkpoint_name: weight for weight in packed_tensors(model).values()}

    def write(self, model: tuple[Any, Any], prompt: str, tokens: int) -> str:
        from octavo.hub.generate import generate

        return "".join(generate(model, prompt, tokens))


def _budgets(text: str) -> tuple[float, ...]:
    try:
        budgets = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BudgetError(f"--bits {text!r} is no list of numbers", "write for instance --bits 4,3,2") from None
    if not all(0 < budget <= 16 for budget in budgets):
        raise BudgetError(f"--bits {text!r} holds a budget that is not between 0 and 16", "write --bits 4,3,2")
    return budgets
