"""The picture of a codebook."""

from __future__ import annotations

from pathlib import Path

from octavo.compress.report.centroids import plot_centroids
from octavo.measure.sources import Laplace, Normal, StudentT


def test_picture_is_a_png(tmp_path: Path) -> None:
    laws = {"normal": Normal.unit_rms(), "Laplace": Laplace.unit_rms(), "Student-t": StudentT.unit_rms(5)}
    path = plot_centroids(tmp_path / "c.png", "a [title] with $signs$ _and_ ^carets", [-1.5, -0.5, 0.5, 1.5], laws)
    assert path.read_bytes().startswith(b"\x89PNG")
