"""The plot of a memory plan: how effective size, or loss, changes with the bits of a weight."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from octavo.base.errors import LawError
from octavo.base.units import format_size
from octavo.checkpoints.durable import disk_errors, write_durably
from octavo.laws.memory_plan import Layout, plan_memory
from octavo.laws.precision import PrecisionLaw

FACTORS = (0.25, 1.0, 4.0)
"""Memories that are drawn, in terms of the one asked for."""


def save_plot(
    path: Path, memory: int, tokens: float, law: PrecisionLaw, layout: Layout | None = None, scale_bits: float = 0.0
) -> Path:
    """Draw a quarter of the memory, the memory and four times as much, from 1 to 16 bits, as PNG; return its path.

    Raises:
        LawError: no model fits any of them.
        OutputError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    bits = tuple(np.geomspace(1, 16, 61).tolist())
    for factor in FACTORS:
        size = round(factor * memory)
        if factor < 1 and not _holds(size, tokens, law, layout, scale_bits):
            continue
        choices = sorted(plan_memory(size, tokens, law, bits, layout, scale_bits), key=lambda choice: choice.bits)
        x = [choice.bits for choice in choices]
        y = [choice.loss if choice.loss is not None else choice.effective / (8 * size) for choice in choices]
        (line,) = axes.plot(x, y, label=format_size(size), linewidth=2.5 if factor == 1 else 1.2)
        best = min(range(len(x)), key=lambda index: -choices[index].effective)
        axes.plot(x[best], y[best], "o", color=line.get_color())
    axes.set_xscale("log", base=2)
    axes.set_xticks([1, 2, 3, 4, 6, 8, 16], labels=["1", "2", "3", "4", "6", "8", "16"])
    axes.set_xlabel("bits per weight of the body")
    axes.set_ylabel("predicted loss, nats per token" if law.predicts_loss else "effective parameters per bit of memory")
    axes.legend(title="memory", frameon=False)
    axes.grid(alpha=0.3)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    with disk_errors(path):
        write_durably(path, [data.getvalue()])
    return path


def _holds(size: int, tokens: float, law: PrecisionLaw, layout: Layout | None, scale_bits: float) -> bool:
    try:
        plan_memory(size, tokens, law, (1.0,), layout, scale_bits)
    except LawError:
        return False
    return True
