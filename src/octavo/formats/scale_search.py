"""Scales of least squared error, weighted by importance where it is known.

For every block, multiples of its base scale are tried; the best is improved in closed form: with the codes held, the
scale of least error is s = Σ c·w·q / Σ c·q², and with that scale the codes are found again. A step that does not lower
the error is dropped. Candidates are rounded as they will be stored before they are judged, so that what is kept is what
was measured. Inside a block the importance of the row is a common factor and cancels; it counts for `tensor` scales.

Everything runs on groups of rows that stay in the cache: memory is a few times `WEIGHTS_AT_ONCE`, time about two passes
of the kernels for every candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from octavo import kernels
from octavo.formats.importance import Importance
from octavo.formats.scaling import Scaling, block_norms, blocks_of, row_ranges

OCTAVES = tuple(step / 4 for step in range(-8, 9))
"""log2 of the multipliers tried where the base is the root mean square: 17 over [1/4, 4]."""

FINE = (-0.125, 0.125)
"""log2 of the multipliers tried around the best of them."""

REFITS = 2
"""Closed-form improvements after the multipliers."""

Rounding = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Errors:
    """Judges scales for some rows of a matrix.

    Attributes:
        weights: the rows, float32.
        codebook: sorted, in units of the scale.
        run: weights to a block.
        root: square root of each column's importance, None if all count alike.
    """

    weights: Float32[Tensor, "rows columns"]
    codebook: Float32[Tensor, " levels"]
    run: int
    root: Float32[Tensor, " columns"] | None

    def values(self, scales: Float32[Tensor, "_ _"], unit: Tensor | None = None) -> Float32[Tensor, "rows columns"]:
        """What the weights become under these scales; with `unit`, in units of it."""
        codes = kernels.quantize(self.weights, scales, self.codebook, self.run)
        # A codebook of 256 entries reads its codes as plain bytes, without unpacking.
        table = torch.cat([self.codebook, self.codebook[-1:].expand(256 - len(self.codebook))])
        used = scales if unit is None else unit.expand_as(scales)
        return kernels.unpack_dequantize(codes.flatten(), used, table, self.run, *self.weights.shape)

    def norms(self, scales: Float32[Tensor, "_ _"]) -> Float32[Tensor, "rows blocks"]:
        """Root of the weighted squared error of every block."""
        difference = self.values(scales).sub_(self.weights)
        return block_norms(difference if self.root is None else difference.mul_(self.root), self.run)

    def moments(self, scales: Float32[Tensor, "_ _"]) -> tuple[Tensor, Tensor]:
        """Σ c·w·q and Σ c·q² of every block, q in units of the scale."""
        reached = self.values(scales, scales.new_ones(()))
        if self.root is not None:
            reached = reached * self.root.square()
            plain = self.values(scales, scales.new_ones(()))
        else:
            plain = reached
        both = zip(
            blocks_of(self.weights, self.run), blocks_of(reached, self.run), blocks_of(plain, self.run), strict=True
        )
        sums = [((w * r).sum(-1), (r * q).sum(-1)) for w, r, q in both]
        return torch.cat([first for first, _ in sums], 1), torch.cat([second for _, second in sums], 1)


def multipliers(scaling: Scaling) -> list[float]:
    """The multiples of the base scale that are tried first."""
    signs = (1.0, -1.0) if scaling.base == "signmax" else (1.0,)
    return [sign * 2.0**octave for octave in OCTAVES for sign in signs]


def search(
    matrix: Float[Tensor, "rows columns"],
    base: Float32[Tensor, "_ _"],
    codebook: Float32[Tensor, " levels"],
    scaling: Scaling,
    rounding: Rounding,
    importance: Importance | None,
    tried: list[float] | None = None,
    refits: int = REFITS,
    fine=FINE,
) -> Float32[Tensor, "_ _"]:
    """The scales of least (weighted) squared error near multiples of `base`.

    Args:
        matrix: weights.
        base: moment-matched scales, in the shape of the scales.
        codebook: sorted, in units of the scale.
        scaling: says which weights share a scale.
        rounding: what storing does to a scale.
        importance: of rows and columns.
    """
    tried = multipliers(scaling) if tried is None else tried
    run = scaling.run(matrix.shape[1])
    root = None if importance is None else importance.column.float().sqrt()

    def errors(part):
        return Errors(matrix[part].float().contiguous(), codebook, run, root)

    best = torch.empty_like(base)
    for part in row_ranges(*matrix.shape):
        best[part] = _best(errors(part), base[part], rounding, tried, refits, fine)
    return best


def _best(errors, base, rounding, tried, refits, fine):
    scales = rounding(base * tried[0])
    least = errors.norms(scales)

    def consider(candidate):
        nonlocal scales, least
        norms = errors.norms(candidate)
        better = norms < least
        scales = torch.where(better, candidate, scales)
        least = torch.where(better, norms, least)

    for m in tried[1:]:
        consider(rounding(base * m))
    centre = scales
    for o in fine:
        consider(rounding(centre * 2.0**o))
    for _ in range(refits):
        n, d = errors.moments(scales)
        consider(rounding(torch.where(d > 0, n / d, scales)))
    return scales
