"""A format in figures: its centroids, its bits, and its error on the usual sources against Shannon's bound."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from octavo.formats.column_groups import ColumnGroups
from octavo.formats.elements import expected_error
from octavo.formats.elements.element import TENSOR_BLOCK
from octavo.formats.elements.grid import Grid
from octavo.formats.elements.trellis import Trellis
from octavo.formats.format import Format
from octavo.formats.lattice.element import VectorElement
from octavo.formats.microscaling import Microscaling
from octavo.measure.rate_distortion import FormatMeasurement, measure_format
from octavo.measure.sources import AbsmaxScaled, Law, Source, source

COUNT = 2**20
DF = 5.0


@dataclass(frozen=True)
class Description:
    """What `octavo formats show` tells.

    Attributes:
        format: the format.
        centroids: the values a weight may take, in units of its block's statistic; none of grids, trellises,
            lattices and groups of columns. Those of data-driven codebooks are fitted to normal data.
        measurements: by name of the source.
        laws: the density of scaled weights for each source, in the centroids' units.
    """

    format: Format
    centroids: tuple[float, ...]
    measurements: dict[str, FormatMeasurement]
    laws: dict[str, Law]

    def plot(self, path: str | Path) -> Path:
        """Save a PNG of the centroids over the densities."""
        from octavo.compress.report.centroids import plot_centroids

        return plot_centroids(Path(path), str(self.format), self.centroids, self.laws)


def describe(format: Format, generator: torch.Generator, count: int = COUNT) -> Description:
    """Measure a format on `count` normal, Laplace and Student-t samples (the format's own df if it has one, else 5).

    Raises:
        FormatError: the format cannot quantize a matrix with rows of 1024.
    """
    df = getattr(format.element, "df", None)
    df = df if isinstance(df, float | int) and df > 2 else DF
    sources = {"normal": source("normal"), "Laplace": source("laplace"), f"Student-t, df={df:g}": source("t", df)}
    measurements = {
        name: measure_format(format, law, count, generator, _expected(format, law)) for name, law in sources.items()
    }
    if isinstance(format.element, Grid | Trellis | ColumnGroups | VectorElement):
        return Description(format, (), measurements, {})
    centroids = _centroids(format, sources["normal"], generator)
    return Description(format, centroids, measurements, {name: _scaled(format, law) for name, law in sources.items()})


def file_name(format: str) -> str:
    """A format string as the name of a file."""
    return re.sub(r"[^a-z0-9.]+", "-", format).strip("-")


def _expected(format: Format, law: Source) -> float | None:
    """Relative squared error by theory, where it speaks of such a format: fixed width, scales hardly rounded."""
    element, scaling = format.element, format.scaling
    if (
        isinstance(element, Grid | Trellis | Microscaling | ColumnGroups | VectorElement)
        or format.outliers
        or format.code != "fixed"
    ):
        return None
    if scaling.statistic is None or scaling.scale == "e8m0":
        return None
    return expected_error(element, scaling.statistic, scaling.block, law)


def _centroids(format: Format, law: Source, generator: torch.Generator) -> tuple[float, ...]:
    element, scaling = format.element, format.scaling
    assert not isinstance(element, Grid | Trellis | ColumnGroups | VectorElement)
    statistic = scaling.statistic or "absmax"
    if element.data_driven:
        sample = law.sample(2**16, generator).reshape(-1, 1024)
        codebook = format.quantize(sample).parts["codebook"]
    else:
        codebook = element.codebook(statistic, scaling.block)
    values = np.sort(codebook.double().numpy() / element.span(statistic, scaling.block))
    return tuple(values.tolist())


def _scaled(format: Format, law: Source) -> Law:
    """The density of a weight divided by its block's statistic."""
    if format.scaling.base in ("absmax", "signmax"):
        return AbsmaxScaled.of(law, format.scaling.block or TENSOR_BLOCK)
    if format.scaling.base == "absmean":
        return type(law)(**{**vars(law), "scale": law.scale / law.mean_absolute})
    return law
