"""Which weights share a scale, what statistic it follows, and how it is stored; the statistics themselves.

Blocks run along the last axis and never cross rows; a row's last block may be short. Statistics are float32:

- absmax, signmax: largest magnitude, without and with the sign of the weight that has it (positive on a tie);
- rms, absmean: root mean square and mean magnitude.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.formats.elements import STATISTICS, base_statistic
from octavo.formats.scale_types import ScaleType, scale_type

WEIGHTS_AT_ONCE = 1 << 18
"""Rows are taken in groups of about this many weights: the temporaries stay in the cache."""

_BLOCK = re.compile(r"b([1-9][0-9]{0,8})")


@dataclass(frozen=True)
class Scaling:
    """Granularity, statistic and storage of the scales.

    Attributes:
        granularity: `tensor`, `channel` (one scale a row), `bN` (blocks of N along the row), or `separable` (a factor
            for each row and each column, water-filled grids only).
        statistic: one of `STATISTICS`; None for `separable`.
        scale: name of a scale type; None for `separable`.
    """

    granularity: str = "b64"
    statistic: str | None = "absmax"
    scale: str | None = "bf16"

    def __post_init__(self) -> None:
        if self.granularity == "separable":
            if self.statistic is not None or self.scale is not None:
                raise FormatError("separable steps have no statistic", "leave out the STATISTIC:SCALE part")
            return
        if self.granularity not in ("tensor", "channel") and not _BLOCK.fullmatch(self.granularity):
            raise FormatError(
                f"unknown granularity {self.granularity!r}", "write tensor, channel or bN with N from 1, e.g. b64"
            )
        if self.statistic not in STATISTICS:
            raise FormatError(f"unknown statistic {self.statistic!r}", f"choose one of {', '.join(STATISTICS)}")
        if self.scale is None:
            raise FormatError("the scale has no type", "write for instance absmax:bf16")
        kind = scale_type(self.scale)
        if self.statistic == "signmax" and not kind.signed:
            raise FormatError(f"signmax scales need a sign, which {self.scale} has not", "use bf16, or absmax")

    @property
    def block(self) -> int | None:
        """Weights to a block; None if the block is the row or the tensor."""
        match = _BLOCK.fullmatch(self.granularity)
        return int(match[1]) if match else None

    @property
    def kind(self) -> ScaleType:
        """The scale type.

        Raises:
            FormatError: separable steps have none.
        """
        if self.scale is None:
            raise FormatError("separable steps have no scale type", "ask the water-filled format")
        return scale_type(self.scale)

    @property
    def base(self) -> str:
        """The statistic that scales are computed from: for a search, the one whose multiples are tried."""
        return base_statistic(self.statistic or "rms", self.block, self.kind.signed)

    @property
    def rounds_up(self) -> bool:
        """A scale that is too small would clip the block's largest weight."""
        return self.statistic in ("absmax", "signmax")

    def scales_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Shape of the part "scales" of a matrix."""
        return 1 if self.granularity == "tensor" else rows, -(-columns // self.run(columns))

    def run(self, columns: int) -> int:
        """Consecutive weights of a row that share a scale, the row's last run apart."""
        return min(self.block or columns, columns)

    def __str__(self) -> str:
        if self.granularity == "separable":
            return self.granularity
        return f"{self.granularity} {self.statistic}:{self.scale}"


def row_ranges(rows: int, columns: int, at_once: int = WEIGHTS_AT_ONCE) -> Iterator[slice]:
    """Ranges of rows of about `at_once` weights each."""
    size = max(1, at_once // max(1, columns))
    for start in range(0, rows, size):
        yield slice(start, min(rows, start + size))


def blocks_of(matrix: Float[Tensor, "rows columns"], run: int) -> list[Tensor]:
    """The matrix as [rows, blocks, run] and, if rows end in a short block, [rows, 1, rest]."""
    columns = matrix.shape[1]
    whole = columns // run * run
    parts = [matrix[:, :whole].unflatten(1, (-1, run))] if whole else []
    return parts if whole == columns else [*parts, matrix[:, None, whole:]]


def block_norms(matrix: Float[Tensor, "rows columns"], run: int) -> Float32[Tensor, "rows blocks"]:
    """Root of the sum of squares of each block."""
    return torch.cat([torch.linalg.vector_norm(part.float(), dim=-1) for part in blocks_of(matrix, run)], dim=1)


def block_statistic(matrix: Float[Tensor, "rows columns"], scaling: Scaling) -> Float32[Tensor, "_ _"]:
    """The base statistic of every block, in the shape of the scales.

    Raises:
        FormatError: a weight is NaN or infinite.
    """
    found = unchecked_statistic(matrix, scaling)
    if not bool(found.isfinite().all()):
        raise FormatError(*_not_finite(matrix))
    return found


def unchecked_statistic(matrix: Float[Tensor, "rows columns"], scaling: Scaling) -> Float32[Tensor, "_ _"]:
    """The same, not finite where a weight is not: on a GPU, looking would make the host wait."""
    rows, columns = matrix.shape
    run = scaling.run(columns)
    base = scaling.base
    # Groups that stay in the cache are a processor's need; a GPU wants few launches.
    parts = row_ranges(rows, columns) if matrix.device.type == "cpu" else [slice(0, rows)]
    found = torch.cat([_of_blocks(matrix[part], run, base) for part in parts])
    return _of_rows(found, base) if scaling.granularity == "tensor" else found


def _of_blocks(matrix: Tensor, run: int, base: str) -> Tensor:
    columns = []
    for part in blocks_of(matrix, run):
        if base in ("absmax", "signmax"):
            high, low = part.amax(-1), part.amin(-1)
            columns.append(torch.maximum(high, -low) if base == "absmax" else torch.where(high >= -low, high, low))
            if base == "signmax":  # a comparison with NaN is false and would hide it
                columns[-1] = torch.where(high.isnan(), high, columns[-1])
        elif base == "rms":
            columns.append(torch.linalg.vector_norm(part.float(), dim=-1) * part.shape[-1] ** -0.5)
        else:
            columns.append(part.float().abs().mean(-1))
    return torch.cat(columns, dim=1).float()


def _of_rows(found: Tensor, base: str) -> Tensor:
    """One number for the tensor from one for each row."""
    if base == "absmax":
        return found.max().reshape(1, 1)
    if base == "signmax":
        high, low = found.max(), found.min()
        return torch.where(high >= -low, high, low).reshape(1, 1)
    wide = found.double()
    return (wide.square().mean().sqrt() if base == "rms" else wide.mean()).float().reshape(1, 1)


def _not_finite(matrix: Tensor) -> tuple[str, str]:
    for part in row_ranges(*matrix.shape):
        bad = ~matrix[part].isfinite()
        if bool(bad.any()):
            row, column = (int(index) for index in bad.nonzero()[0])
            value = float(matrix[part][row, column])
            place = f"{value:g} in row {part.start + row}, column {column}"
            return f"the tensor holds {place}", "weights must be finite: repair the checkpoint, or exclude the tensor"
    return "the tensor's weights are too large for a float32 scale", "rescale the tensor"
