"""What a budget of memory may be spent on: widths for a tensor, and mixtures of widths for groups of its columns.

Of the codebooks at 4 bits, k-means in blocks of 64 under signed 8-bit logarithmic scales lost least, by the Fisher-
weighted error on layers of the embedded model, ahead of Lloyd-Max and cube-root densities and of integers. Columns of
unequal importance get unequal widths (octavo.formats.column_groups): a mixture is found for each of many prices of a
bit, and the plan then picks one of a tensor's mixtures, or one width.

Mixtures need a text. Without one, columns could only be ranked by their energy, and inputs that are large have small
weights: at 4 bits such mixtures lost more than twice what one width for all columns does (docs/log.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from octavo.formats import Format, Importance
from octavo.formats.column_groups import NAME, column_needs

WIDTHS = ("lloyd@1", "lloyd(levels=3)", "lloyd@2", "lloyd@3", "lloyd@4", "lloyd@5", "lloyd@6", "int@8")
"""Elements by ascending width."""

SCALING = "b64 search:s8"

CHUNK = 32
"""Columns that get a width together."""

PRICES = 40
"""Mixtures tried for a tensor, at most."""


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


def plain() -> tuple[str, ...]:
    """The formats of one width."""
    return tuple(f"{width} {SCALING}" for width in WIDTHS)


def menu(
    shape: tuple[int, ...],
    sample: Float[Tensor, "rows columns"],
    importance: Importance,
    factor: float,
    mixed: bool = True,
) -> Menu:
    """The choices for a tensor, judged on some of its rows.

    Args:
        shape: of the whole tensor.
        sample: rows of it.
        importance: theirs, in nats per token per squared weight.
        factor: how many times larger the whole is.
        mixed: offer mixtures of widths.
    """
    # In the order of need, so that blocks hold the columns they will hold.
    order = column_needs(sample, importance).argsort(descending=True, stable=True)
    ordered, known = sample[:, order], Importance(importance.row, importance.column[order])
    errors = factor * np.stack([_column_losses(Format.parse(text), ordered, known) for text in plain()])
    bits = np.array([Format.parse(text).bits(shape) for text in plain()])
    formats = list(plain())
    losses = errors.sum(1).tolist()
    for widths in _mixtures(errors, bits * factor * len(sample)) if mixed else ():
        text = _mixture(widths, shape[-1])
        if text not in formats:
            formats.append(text)
            losses.append(float(errors[np.repeat(widths, CHUNK)[: shape[-1]], np.arange(shape[-1])].sum()))
    return Menu(tuple(formats), tuple(Format.parse(text).stored_bits(shape) for text in formats), tuple(losses))


def _column_losses(
    format: Format, matrix: Float[Tensor, "rows columns"], importance: Importance
) -> Float[ndarray, " columns"]:
    """Half the importance-weighted squared error of each column."""
    error = (format.fake_quantize(matrix, importance) - matrix).double().square()
    return (0.5 * (importance.row.double() @ error) * importance.column.double()).numpy()


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


def _mixture(widths: ndarray, columns: int) -> str:
    """The format string of widths for runs of columns."""
    runs = [(int(width), CHUNK * len(list(run))) for width, run in groupby(widths)]
    if len(runs) == 1:
        return plain()[runs[0][0]]
    items = [f"{WIDTHS[width]}={count}" for width, count in runs[:-1]]
    return f"{NAME}({','.join([*items, WIDTHS[runs[-1][0]]])}) {SCALING}"
