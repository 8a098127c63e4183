"""Rounding to the learned lattices of groups of columns, and the way back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from octavo.base.errors import CheckpointError
from octavo.formats.lattice.companded import CompandedLattice, top_of
from octavo.formats.lattice.element import as_matrix, filled, in_units, spread_scales
from octavo.formats.scaling import row_ranges
from octavo.formats.tensor import QuantizedTensor
from octavo.kernels import pack, unpack

if TYPE_CHECKING:
    from octavo.formats.format import Format

GROUP = 128
"""Columns of a group; the last one may have fewer."""

KEPT = 8
"""Points kept while rounding (octavo.formats.lattice.k_best)."""


@dataclass(frozen=True, eq=False)
class GroupsRounder:
    """A matrix with its scales and the lattices of its groups (see octavo.formats.rounding.Rounder).

    Attributes:
        format: the format.
        columns: of the matrix.
        parts: all parts but the codes.
        metrics: of the vectors of a row (octavo.formats.lattice.metrics).
        widths: bits of each group.
    """

    format: Format
    columns: int
    parts: Mapping[str, Tensor]
    metrics: Float32[Tensor, "vectors d d"]
    widths: tuple[int, ...]

    @property
    def together(self) -> int:
        return self.metrics.shape[1]

    @cached_property
    def _scales(self) -> Float32[Tensor, "_ columns"]:
        return spread_scales(self.format.scaling, self.parts, slice(0, self.columns), self.columns)

    @cached_property
    def _lattices(self) -> tuple[CompandedLattice, ...]:
        return stored_lattices(self.parts)

    def _rounded(
        self, columns: slice, values: Float[Tensor, "rows run"]
    ) -> Iterator[tuple[slice, CompandedLattice, Float32[Tensor, "rows d"]]]:
        """(Columns, lattice, points) of vector after vector, so that a vector's code depends on nothing else."""
        d = self.together
        for start in range(columns.start, columns.stop, d):
            span = slice(start, min(start + d, columns.stop))
            own = values[:, start - columns.start : span.stop - columns.start].float()
            vectors = filled(in_units(own, self._scales[:, span]), d)
            lattice, bits = self._lattices[start // GROUP], self.widths[start // GROUP]
            yield span, lattice, lattice.nearest(vectors, self.metrics[start // d, None], bits, KEPT)[0]

    def round(self, columns: slice, values: Float32[Tensor, "rows run"]) -> Float32[Tensor, "rows run"]:
        rounded = torch.empty_like(values)
        for span, lattice, points in self._rounded(columns, values):
            here = lattice.values(points)[:, : span.stop - span.start] * self._scales[:, span]
            rounded[:, span.start - columns.start : span.stop - columns.start] = here
        return rounded

    def quantize(self, weights: Float[Tensor, "..."]) -> QuantizedTensor:
        matrix = as_matrix(weights)
        points = torch.cat([found for _, _, found in self._rounded(slice(0, self.columns), matrix)], 1)
        codes = [
            pack((group + top_of(bits)).to(torch.uint8).flatten(), 2**bits)
            for group, bits in zip(points.split(GROUP, 1), self.widths, strict=True)
        ]
        return QuantizedTensor(self.format, tuple(weights.shape), {"codes": torch.cat(codes), **self.parts})


def stored_lattices(parts: Mapping[str, Tensor]) -> tuple[CompandedLattice, ...]:
    """The lattices of a matrix's groups.

    Raises:
        CheckpointError: a μ is not above 0, as no learned one is.
    """
    if not bool((parts["companding"] > 0).all()):
        raise CheckpointError("the companding of a group is not above 0", "the checkpoint is damaged; copy it again")
    pairs = zip(parts["basis"].float(), parts["companding"].float(), strict=True)
    return tuple(CompandedLattice(basis, mu) for basis, mu in pairs)


def decoded(
    lattice: CompandedLattice, packed: UInt8[Tensor, "rows bytes"], bits: int
) -> Float32[Tensor, "rows columns"]:
    """A group's weights in units of their scales, from its rows' packed codes."""
    rows, columns = len(packed), packed.shape[1] * 8 // bits
    codes = unpack(packed.flatten(), 2**bits, rows * columns).view(rows, columns)
    values = torch.empty(rows, columns, device=packed.device)
    for part in row_ranges(rows, columns):
        points = codes[part].float() - top_of(bits)
        values[part] = lattice.values(points.view(-1, len(lattice.basis))).view(-1, columns)
    return values
