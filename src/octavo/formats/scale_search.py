"""Scales of least squared error, weighted by importance where it is known.

For every block, multiples of its base scale are tried. Each gives codes, and codes have a scale of their own that fits
them best, in closed form: s = Σ c·w·q / Σ c·q². It lowers the error to Σ c·w² - (Σ c·w·q)² / Σ c·q², so the codes of
largest second term are kept, with their scale. Around it finer multiples are tried, and the closed form twice more, now
judged by the error itself with the scale rounded as it will be stored; whatever does not lower it is dropped. Where a
stored scale is too coarse to follow the closed form (E8M0), candidates are judged by the error from the start. Inside a
row the importance of the row is a common factor and cancels; it counts for `tensor` scales.

Where the base is the block's maximum, good multiples lie close together and each of them is a basin of its own, because
another weight falls on a centroid: eighths of an octave with both signs come within 0.2 % in R of an exhaustive search
(blocks of 32 and 64, 3 and 4 bits, Student-t data, with and without importance); quarters stay about 0.4 % behind.

Everything runs on groups of rows that stay in the cache: memory is a few times `WEIGHTS_AT_ONCE`, time about two passes
of the kernels for every candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from octavo import kernels
from octavo.formats.importance import Importance
from octavo.formats.scaling import Scaling, block_norms, blocks_of, row_ranges

Rounding = Callable[[Tensor], Tensor]
"""What storing does to a scale."""

Values = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Told rows, their scales, other scales and the run: the values of the codes under the former, scaled by the latter."""

REFITS = 2
"""Closed-form improvements after the multipliers."""


@dataclass(frozen=True)
class Steps:
    """Which multiples of the base scale are tried, as log2.

    Attributes:
        first: multiples of the base.
        fine: multiples of the best of them.
        signs: of the first ones.
        follow: go from each of the first to the scale that fits its codes best.
    """

    first: tuple[float, ...]
    fine: tuple[float, ...] = ()
    signs: tuple[float, ...] = (1.0,)
    follow: bool = True


def steps(scaling: Scaling, weighted: bool) -> Steps:
    """The multiples for a scaling.

    Around an RMS there are 17 over [1/4, 4]. Below and above a maximum, [-5/4, 3/4] octaves are enough, but where
    weights differ in importance the largest may be an unimportant one, and scales down to 1/4 are tried.
    """
    if scaling.scale == "e8m0":
        return Steps((-2.0, -1.0, 0.0, 1.0, 2.0), follow=False)
    if scaling.base not in ("absmax", "signmax"):
        return Steps(tuple(step / 4 for step in range(-8, 9)), (-1 / 8, 1 / 8))
    first = tuple(step / 8 for step in range(-16 if weighted else -10, 7))
    return Steps(first, (-1 / 16, 1 / 16), (1.0, -1.0) if scaling.base == "signmax" else (1.0,))


NEIGHBORS = Steps((0.0, -1 / 12, 1 / 12), follow=False)
"""For a scale that is nearly right and has to settle on a coarse grid."""

NEARBY = Steps((0.0,), (-1 / 4, -1 / 8, -1 / 16, 1 / 16, 1 / 8, 1 / 4), follow=False)
"""For a scale that was right for a slightly different codebook."""


class Judge(Protocol):
    """Says how well scales do."""

    def norms(self, scales: Tensor) -> Tensor:
        """Root of the weighted squared error behind every scale."""
        ...

    def moments(self, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Σ c·w·q and Σ c·q² behind every scale, q in units of the scale."""
        ...


def codebook_values(codebook: Float32[Tensor, " levels"]) -> Values:
    """The values of scalars rounded to a sorted codebook, which is in units of the scale."""
    # With 256 entries a codebook reads its codes as plain bytes, without unpacking.
    table = torch.cat([codebook, codebook[-1:].expand(256 - len(codebook))])

    def values(weights: Tensor, scales: Tensor, used: Tensor, run: int) -> Tensor:
        codes = kernels.quantize(weights, scales, codebook, run)
        rows, columns = weights.shape
        return kernels.unpack_dequantize(codes.flatten(), used, table, run, rows, columns)

    return values


@dataclass(frozen=True, eq=False)
class RowJudge:
    """Judges the scales of some rows, where no scale reaches across rows.

    Attributes:
        weights: the rows, float32.
        values: what rounding makes of them.
        run: weights to a block.
        column: each column's importance, None if all count alike.
    """

    weights: Float32[Tensor, "rows columns"]
    values: Values
    run: int
    column: Float32[Tensor, " columns"] | None

    def norms(self, scales: Float32[Tensor, "_ blocks"]) -> Float32[Tensor, "rows blocks"]:
        difference = self.values(self.weights, scales, scales, self.run).sub_(self.weights)
        if self.column is not None:
            difference.mul_(self.column.sqrt())
        return block_norms(difference, self.run)

    def moments(self, scales: Float32[Tensor, "_ blocks"]) -> tuple[Tensor, Tensor]:
        reached = self.values(self.weights, scales, torch.ones_like(scales), self.run)
        counted = reached if self.column is None else reached * self.column
        sums = []
        for other in (self.weights, reached):
            pairs = zip(blocks_of(counted, self.run), blocks_of(other, self.run), strict=True)
            # torch.linalg.vecdot takes a hundred times as long.
            sums.append(torch.cat([(one * two).sum(-1) for one, two in pairs], dim=1))
        return sums[0], sums[1]


@dataclass(frozen=True, eq=False)
class TensorJudge:
    """Judges one scale for a whole matrix, rows weighted by their importance.

    Attributes:
        rows: makes the judge of a range of rows.
        shape: of the matrix.
        importance: of each row, None if all count alike.
    """

    rows: Callable[[slice], RowJudge]
    shape: tuple[int, int]
    importance: Float32[Tensor, " rows"] | None

    def norms(self, scales: Float32[Tensor, "1 1"]) -> Float32[Tensor, "1 1"]:
        total = scales.new_zeros((), dtype=torch.float64)
        for part in row_ranges(*self.shape):
            total += self._sum(self.rows(part).norms(scales).square(), part)
        return total.sqrt().float().reshape(1, 1)

    def moments(self, scales: Float32[Tensor, "1 1"]) -> tuple[Tensor, Tensor]:
        totals = [scales.new_zeros((), dtype=torch.float64) for _ in range(2)]
        for part in row_ranges(*self.shape):
            for total, found in zip(totals, self.rows(part).moments(scales), strict=True):
                total += self._sum(found, part)
        return totals[0].float().reshape(1, 1), totals[1].float().reshape(1, 1)

    def _sum(self, found: Tensor, part: slice) -> Tensor:
        wide = found.double()
        return (wide if self.importance is None else wide * self.importance[part, None]).sum()


def search(
    matrix: Float[Tensor, "rows columns"],
    base: Float32[Tensor, "_ _"],
    values: Values,
    scaling: Scaling,
    rounding: Rounding,
    importance: Importance | None,
    tried: Steps | None = None,
) -> Float32[Tensor, "_ _"]:
    """The scales of least (weighted) squared error near multiples of `base`, in its shape.

    Args:
        matrix: weights.
        base: scales to start from, one a block, row or tensor as `scaling` says.
        values: what rounding makes of weights, given their scales.
        scaling: says which weights share a scale.
        rounding: what storing does to a scale.
        importance: of rows and columns, float32.
        tried: multiples of `base`; by default what `steps` says.
    """
    tried = steps(scaling, importance is not None) if tried is None else tried
    run = scaling.run(matrix.shape[1])
    column = None if importance is None else importance.column

    def settle(scales: Tensor) -> Tensor:
        return rounding(scales if scaling.kind.signed else scales.abs())

    def judge(part: slice) -> RowJudge:
        return RowJudge(matrix[part].float(), values, run, column)

    if scaling.granularity == "tensor":
        row = None if importance is None else importance.row
        return _best(TensorJudge(judge, (matrix.shape[0], matrix.shape[1]), row), base, settle, tried)
    best = torch.empty_like(base)
    for part in row_ranges(*matrix.shape):
        best[part] = _best(judge(part), base[part], settle, tried)
    return best


def settled_scales(
    matrix: Float[Tensor, "rows columns"],
    base: Float32[Tensor, "_ _"],
    values: Values,
    scaling: Scaling,
    importance: Importance | None,
    tried: Steps | None = None,
) -> tuple[Float32[Tensor, "_ _"], Float32[Tensor, " second"] | None]:
    """The scales that a search finds, nearly as they will be stored, and their second level; `search`'s arguments.

    A second level is known only when all scales are, which then settle on its grid.
    """
    scales = search(matrix, base, values, scaling, as_stored(scaling, None), importance, tried)
    level = scaling.kind.level(scales)
    if level is not None:
        scales = search(matrix, scales, values, scaling, as_stored(scaling, level), importance, NEIGHBORS)
    return scales, level


def as_stored(scaling: Scaling, level: Float32[Tensor, " second"] | None) -> Rounding:
    """What storing does to a scale; nothing as long as the second level is not known."""
    kind = scaling.kind
    if kind.second_level and level is None:
        return lambda scales: scales
    # Codes relative to a second level saturate by themselves.
    limit = torch.finfo(kind.dtype).max if level is None else torch.inf
    return lambda scales: kind.decode(kind.encode(scales.clamp(-limit, limit), level, up=False), level)


def stored_scales(
    scales: Float32[Tensor, "_ _"], level: Float32[Tensor, " second"] | None, scaling: Scaling
) -> dict[str, Tensor]:
    """The parts "scales" and, for two-level types, "scale"."""
    level = scaling.kind.level(scales) if level is None else level
    stored = {"scales": scaling.kind.encode(scales, level, scaling.rounds_up)}
    return stored if level is None else {**stored, "scale": level}


def _best(judge: Judge, base: Tensor, settle: Rounding, tried: Steps) -> Tensor:
    candidates = [base * (sign * 2.0**octave) for octave in tried.first for sign in tried.signs]
    if tried.follow:
        candidates = [_of_largest_gain(judge, candidates)]
    scales, least = base, torch.full_like(base, torch.inf)

    def consider(candidate: Tensor) -> None:
        nonlocal scales, least
        candidate = settle(candidate)
        norms = judge.norms(candidate)
        better = norms < least
        scales = torch.where(better, candidate, scales)
        least = torch.where(better, norms, least)

    for candidate in candidates:
        consider(candidate)
    for candidate in [scales * 2.0**octave for octave in tried.fine]:
        consider(candidate)
    for _ in range(REFITS):
        consider(_fitting(*judge.moments(scales), scales))
    return scales


def _of_largest_gain(judge: Judge, candidates: Sequence[Tensor]) -> Tensor:
    """For every block the closed-form scale of the candidate whose codes it serves best."""
    scales, most = candidates[0], torch.full_like(candidates[0], -1.0)
    for candidate in candidates:
        product, square = judge.moments(candidate)
        # Codes that fit best with the other sign belong to no scale that is tried.
        gain = torch.where((product * candidate > 0) & (square > 0), product.square() / square, 0)
        better = gain > most
        scales = torch.where(better, _fitting(product, square, candidate), scales)
        most = torch.where(better, gain, most)
    return scales


def _fitting(product: Tensor, square: Tensor, otherwise: Tensor) -> Tensor:
    """The scale of least error for given codes; `otherwise` where all of them are zero."""
    return torch.where(square > 0, product / square, otherwise)
