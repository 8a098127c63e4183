"""What squared error theory expects of an element on a source, before any weight is seen."""

from __future__ import annotations

from octavo.formats.elements.element import Element
from octavo.measure.scalar import block_error, squared_error
from octavo.measure.sources import Source


def expected_error(element: Element, statistic: str, block: int | None, source: Source) -> float | None:
    """Mean squared error over mean square of an element on an endless stream of a source; scale rounding not counted.

    Returns None where no closed form is known: fitted codebooks, searched scales, the RMS or mean of short blocks,
    and the maximum of a whole tensor.
    """
    if element.data_driven or statistic == "search":
        return None
    codebook = element.codebook(statistic, block).double().numpy()
    span = element.span(statistic, block)
    if statistic in ("absmax", "signmax"):
        return None if block is None else block_error(codebook, source, block, span, statistic == "signmax")
    if block is not None:
        return None
    scale = (source.rms if statistic == "rms" else source.mean_absolute) / span
    return squared_error(codebook * scale, source, source.rms**2) / source.rms**2
