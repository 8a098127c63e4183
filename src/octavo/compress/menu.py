"""What a budget of memory may be spent on: widths for a tensor, and mixtures of widths for groups of its columns.

Trellis codes lose least at a fixed width, where columns are long enough for paths to run along them. Short ones take
k-means codebooks in blocks of 64 under signed 8-bit logarithmic scales, which lost least of all others at 4 bits, ahead
of Lloyd-Max and cube-root densities and of integers. Columns of unequal importance get unequal widths
(octavo.formats.column_groups): a mixture is found for each of many prices of a bit, and the plan then picks one of a
tensor's mixtures, or one width.

Mixtures need a text. Without one, columns could only be ranked by their energy, and inputs that are large have small
weights: at 4 bits such mixtures lost more than twice what one width for all columns does (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from octavo.compress.sampling import sampled_rows
from octavo.formats import Format, Importance
from octavo.formats.column_groups import NAME, column_needs
from octavo.formats.format import matrix_shape
from octavo.measure.rate_distortion import relative_error

TRELLIS = tuple(f"trellis(states=4096)@{bits}" for bits in range(1, 7))
"""Elements for long columns by ascending width."""

TRELLIS_SCALINGS = ("channel rms:u8", "tensor rms:fp32")
"""A scale for every row of a group pays in groups of some hundred columns."""

LLOYD = tuple(f"lloyd@{bits}" for bits in range(1, 7))
"""Elements for short columns by ascending width."""

LLOYD_SCALING = "b64 search:s8"

WIDEST = "int@8 b64 search:s8"

LONG = 128
"""Rows from which on columns are long."""

CHUNK = 32
"""Columns that get a width together."""

PRICES = 40
"""Mixtures tried for a tensor and a scaling, at most."""

TRIED, TRIED_ROWS = 64, 4096
"""Columns and rows of a tensor that a trellis is tried on."""


@dataclass(frozen=True)
class Menu:
    """What one tensor may be stored as.

    Attributes:
        formats: format strings; the first are those of `plain`, alike for all tensors.
        sizes: bits of each.
        losses: predicted loss of each, nats per token.
    """

    formats: tuple[str, ...]
    sizes: tuple[int, ...]
    losses: tuple[float, ...]


def plain(shape: tuple[int, ...], mixed: bool = True, trellis: bool = True) -> tuple[str, ...]:
    """The formats of one width for a tensor, as many for any.

    A trellis clips a single huge weight, on which a model may depend (down projections have such), unless a text has
    shown that its column matters. So without mixtures it is not offered.
    """
    if matrix_shape(shape)[0] >= LONG and mixed and trellis:
        return (*(f"{width} {TRELLIS_SCALINGS[0]}" for width in TRELLIS), WIDEST)
    return (*(f"{width} {LLOYD_SCALING}" for width in LLOYD), WIDEST)


def menu(tensor: Float[Tensor, "..."], importance: Importance, mixed: bool = True, trellis: bool = True) -> Menu:
    """The choices for a tensor.

    Args:
        tensor: the tensor.
        importance: of its weights, in nats per token per squared weight.
        mixed: offer mixtures of widths.
        trellis: offer trellis codes, which cannot follow weights that learn.
    """
    shape = tuple(tensor.shape)
    rows, columns = matrix_shape(shape)
    matrix = tensor.reshape(rows, columns)
    needs = column_needs(matrix, importance)
    order = needs.argsort(descending=True, stable=True)
    # In the order of need, so that blocks hold the columns they will hold.
    ordered, known = matrix[:, order], Importance(importance.row, importance.column[order])
    losses: dict[str, float] = {}
    if rows >= LONG and mixed and trellis:
        for scaling in TRELLIS_SCALINGS:
            errors = 0.5 * np.outer(trellis_distortions(ordered, scaling), needs[order].numpy())
            losses |= _offers(TRELLIS, scaling, errors, shape, mixed)
    else:
        errors = np.stack([_column_losses(f"{width} {LLOYD_SCALING}", ordered, known) for width in LLOYD])
        losses |= _offers(LLOYD, LLOYD_SCALING, errors, shape, mixed)
    losses[WIDEST] = float(_column_losses(WIDEST, ordered, known).sum())
    formats = tuple(dict.fromkeys([*plain(shape, mixed, trellis), *losses]))
    sizes = tuple(Format.parse(text).stored_bits(shape) for text in formats)
    return Menu(formats, sizes, tuple(losses[text] for text in formats))


def trellis_distortions(matrix: Float[Tensor, "rows columns"], scaling: str) -> Float[ndarray, " widths"]:
    """Relative squared error of each width of a trellis: normal weights', times what these weights lose more at 3 bits.

    Args:
        matrix: columns in any order that is even.
        scaling: of the trellis.
    """
    columns = matrix.shape[1]
    picked = torch.linspace(0, columns - 1, min(columns, TRIED)).long()
    sample = matrix[:TRIED_ROWS, picked].float()
    if not bool(sample.any()):
        return np.zeros(len(TRELLIS))
    normal = _normal_distortions(scaling)
    own = relative_error(sample, Format.parse(f"{TRELLIS[2]} {scaling}").fake_quantize(sample))
    return normal * own / normal[2]


@cache
def _normal_distortions(scaling: str) -> Float[ndarray, " widths"]:
    sample = torch.randn(1024, TRIED, generator=torch.Generator().manual_seed(0))
    found = [relative_error(sample, Format.parse(f"{width} {scaling}").fake_quantize(sample)) for width in TRELLIS]
    return np.array(found)


def _offers(
    widths: Sequence[str], scaling: str, errors: Float[ndarray, "widths columns"], shape: tuple[int, ...], mixed: bool
) -> dict[str, float]:
    """Formats of these widths, one for all columns or mixed, and their losses."""
    losses = {f"{width} {scaling}": float(each.sum()) for width, each in zip(widths, errors, strict=True)}
    sizes = np.array([Format.parse(text).stored_bits(shape) / shape[-1] for text in losses])
    for picks in _mixtures(errors, sizes) if mixed else ():
        text = _mixture([widths[int(pick)] for pick in picks], scaling, shape[-1])
        losses.setdefault(text, float(errors[np.repeat(picks, CHUNK)[: shape[-1]], np.arange(shape[-1])].sum()))
    return losses


def _column_losses(
    text: str, tensor: Float[Tensor, "rows columns"], importance: Importance
) -> Float[ndarray, " columns"]:
    """Half the importance-weighted squared error of each column, judged on some rows."""
    sample, known, factor = sampled_rows(tensor, importance)
    error = (Format.parse(text).fake_quantize(sample, known) - sample).double().square()
    return (0.5 * factor * (known.row.double() @ error) * known.column.double()).numpy()


def _mixtures(errors: Float[ndarray, "widths columns"], cost: Float[ndarray, " widths"]) -> list[ndarray]:
    """For each of many prices, the best width of each run of `CHUNK` columns, never more for columns in less need.

    Args:
        errors: loss of each column at each width, most needed columns first.
        cost: bits of a column at each width.
    """
    starts = np.arange(0, errors.shape[1], CHUNK)
    chunks = np.add.reduceat(errors, starts, axis=1)
    sizes = cost[:, None] * np.diff(np.append(starts, errors.shape[1]))[None, :]
    gains = -np.diff(chunks, axis=0) / np.diff(sizes, axis=0)
    gains = gains[gains > 0]
    if not len(gains):
        return []
    prices = np.geomspace(gains.max(), gains.min(), PRICES)
    return [np.minimum.accumulate((chunks + price * sizes).argmin(0)) for price in prices]


def _mixture(widths: Sequence[str], scaling: str, columns: int) -> str:
    """The format string of widths for runs of columns."""
    runs = [(width, CHUNK * len(list(run))) for width, run in groupby(widths)]
    if len(runs) == 1:
        return f"{runs[0][0]} {scaling}"
    items = [f"{width}={count}" for width, count in runs[:-1]]
    return f"{NAME}({','.join([*items, runs[-1][0]])}) {scaling}"
