"""`octavo formats`: the list of number formats, and one of them in figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from octavo.cli.console import print_table, say

SAMPLE_SHAPE = (1024, 1024)

# One row a family, not one a member: there are 29 small floats alone.
FAMILIES = (
    ("cbrt-normal@4", "quantiles of a density's cube root, best for normal weights"),
    ("cbrt-laplace@4", "the same for Laplace weights"),
    ("cbrt-t(df=5)@4", "the same for Student-t weights; df=fit fits each tensor"),
    ("lloyd@4", "the tensor's own least-squares centroids (k-means)"),
    ("trellis(states=4096)@4 channel rms:u8", "a path through thousands of values, the least error at fixed width"),
    ("lloyd-normal@4", "least-squares centroids of the normal density"),
    ("lloyd-laplace@4", "least-squares centroids of the Laplace density"),
    ("lloyd-t(df=5)@4", "least-squares centroids of a Student-t density"),
    ("int@4", "integers; variant=symmetric leaves out the lowest"),
    ("nf4", "the sixteen values of QLoRA's NF4"),
    ("sf4", "the sixteen values of SF4, NF4's Student-t kin"),
    ("e2m1", "small floats: any eXmY of up to 8 bits"),
    ("columns(int@8=32,lloyd@5=128,lloyd@3) b64 search:s8", "unequal widths: where a budget is of the memory"),
    ("lattice-e8@2 b64 search:s8", "points of a dense lattice for vectors of 8; also lattice-d4, lattice-z"),
    ("glvq(d=8)@2", "lattices learned for groups of columns (GLVQ); widths=unequal moves bits between them"),
    ("mxfp4", "OCP microscaling; also mxfp6-e2m3, mxfp6-e3m2, mxfp8-e4m3, mxfp8-e5m2"),
    ("mxint8", "OCP microscaling, 8-bit integers; also mxint4"),
    ("nvfp4", "NVIDIA's two-level E2M1"),
    ("grid@3.0 tensor rms:fp32 ans", "a uniform grid, entropy coded to a rate"),
    ("grid(step=0.0131) separable ans", "a water-filled grid: the default where a budget is of the file"),
)

formats = typer.Typer(name="formats", context_settings={"help_option_names": ["-h", "--help"]})


@formats.callback(invoke_without_command=True, epilog='Example: octavo formats show "nf4 b64 absmax:bf16"')
def list_formats(context: typer.Context) -> None:
    """List the number formats; `formats show SPEC` has one in figures."""
    if context.invoked_subcommand is not None:
        return
    from octavo.formats.format import Format

    rows = []
    for spec, words in FAMILIES:
        format = Format.parse(spec)
        size = f"{format.bits(SAMPLE_SHAPE):.3f}" if format.code == "fixed" else "by data"
        rows.append((str(format), size, words))
    print_table(("format", "bits/weight", "what it is"), rows, left=(0, 2))
    say("ELEMENT [tensor|channel|bN] [absmax|signmax|rms|absmean|search[:SCALE]] [outliers=P] [ans]")


@formats.command(epilog='Example: octavo formats show "cbrt-t(df=5)@3 b64 absmax:bf16"')
def show(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="A format string; quote it.")],
    plot: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Where to save the centroids over the densities. Default: the format's name."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the samples that are measured.")] = 0,
) -> None:
    """Show a format's centroids, its bits per weight, and its error on normal, Laplace and Student-t data."""
    from octavo.formats.elements.trellis import Trellis
    from octavo.formats.format import Format

    format = Format.parse(spec)
    import torch

    from octavo.compress.description import describe, file_name

    found = describe(format, torch.Generator().manual_seed(seed))
    say(f"{format}")
    if found.centroids:
        say(f"{len(found.centroids)} centroids: {' '.join(f'{value:.4g}' for value in found.centroids)}")
    elif format.levels is None:
        say("centroids: all whole multiples of the step")
    elif isinstance(format.element, Trellis):
        say(f"centroids: one for each of {format.element.states} states, fitted to the tensor")
    rows = [
        (
            name,
            f"{m.bits:.4f}",
            "" if m.expected_sqnr_db is None else f"{m.expected_sqnr_db:.2f}",
            f"{m.sqnr_db:.2f}",
            f"{m.bound_db:.2f}",
            f"{m.gap_db:.2f}",
            f"{m.gap_bits:.3f}",
        )
        for name, m in found.measurements.items()
    ]
    heads = ("data", "bits/weight", "expected SQNR dB", "measured", "Shannon bound", "gap dB", "gap bits")
    print_table(heads, rows)
    if found.centroids:
        say(f"plot: {found.plot(plot or Path(f'{file_name(str(format))}.png'))}")
