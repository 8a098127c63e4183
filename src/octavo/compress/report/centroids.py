"""A picture of a codebook: its centroids under the densities they serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from octavo.measure.sources import Law

COLORS = ("#b0431e", "#1f6f8b", "#5c7f2b")


def plot_centroids(path: Path, title: str, centroids: Sequence[float], laws: Mapping[str, Law]) -> Path:
    """Save a PNG of `centroids` (sorted, in the units of the laws) as stems under each law's density.

    Raises:
        OSError: the file cannot be written.
    """
    # The object interface alone: no global figure, no display, nothing for the caller to close.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    values = np.asarray(centroids, dtype=np.float64)
    reach = 1.08 * np.abs(values).max()
    x = np.linspace(-reach, reach, 1201)
    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    densities = {name: law.pdf(x) for name, law in laws.items()}
    top = max(float(density.max()) for density in densities.values())
    for color, (name, density) in zip(COLORS, densities.items(), strict=False):
        axes.plot(x, density, color=color, linewidth=1.6, label=name)
    axes.vlines(values, 0, 0.1 * top, color="#333333", linewidth=1)
    axes.plot(values, np.full_like(values, 0.1 * top), "o", color="#333333", markersize=4, label="centroids")
    for edge in (values[1:] + values[:-1]) / 2:
        axes.axvline(edge, color="#bbbbbb", linewidth=0.5, zorder=0)
    axes.set(xlabel="weight in units of its scale", ylabel="density", xlim=(-reach, reach), ylim=(0, 1.1 * top))
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.legend(frameon=False, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=150, format="png")
    return path
