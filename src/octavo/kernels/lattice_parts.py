"""Parts of a product whose codes are vectors: Voronoi codes of D4 and E8, and companded lattices of groups of columns.

On the CPU rows are decoded in registers, sixteen vectors at a time, to a row of float32 that is multiplied at once; a
GPU makes the matrix dense first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from octavo.kernels import reference
from octavo.kernels.columns import ALL, Columns
from octavo.kernels.reference.lattice import companded_points, voronoi_points


class _DensePart(Protocol):
    """A part whose weights are made dense wherever C++ does not multiply by them.

    Attributes:
        columns: of the inputs.
    """

    columns: Columns

    def values(self, rows: int, count: int) -> Float32[Tensor, "{rows} {count}"]:
        """The weights of the columns taken."""
        ...

    def product(self, inputs: Float32[Tensor, "batch columns"], rows: int) -> Float32[Tensor, "batch rows"]:
        taken = self.columns.of(inputs)
        return taken @ self.values(rows, taken.shape[1]).T

    def ready(self, rows: int, columns: int) -> None:
        """Nothing: nothing is launched that reads these tensors by itself."""

    def on_gpu(self, inputs: Tensor, rows: int, onto: Tensor | None) -> Tensor:
        found = self.product(inputs.float(), rows)
        return found if onto is None else onto + found

    def rows_on_gpu(self, index: Tensor, rows: int, columns: int) -> Tensor:
        return self.columns.spread(self.values(rows, self.columns.count(columns))[index], columns)


@dataclass(frozen=True, eq=False)
class VoronoiPart(_DensePart):
    """Voronoi codes of D4 or E8 (octavo.kernels.reference.lattice).

    Attributes:
        packed: digits of all rows, in the places of their vectors' weights (octavo.kernels.layout).
        row_codes: digits of a row, whole vectors; those beyond the columns are skipped.
        size: of the alphabet of digits.
        basis: rows are basis vectors.
        offset: that points lie off the lattice.
        listed: the point of each code if there are at most 2^16, the first digit changing fastest.
        scales: float32 or bfloat16, [rows or 1, ceil(columns / block)].
        block: columns that share a scale.
        columns: of the inputs.
    """

    packed: UInt8[Tensor, " bytes"]
    row_codes: int
    size: int
    basis: Float32[Tensor, "d d"]
    offset: Float32[Tensor, " d"]
    listed: Float32[Tensor, "points d"] | None
    scales: Float[Tensor, "_ _"]
    block: int
    columns: Columns = ALL

    def join(self, native: Any) -> None:
        columns = self.columns.numbers, self.columns.factors
        code = self.row_codes, self.size, self.basis, self.offset, self.listed
        native.add_voronoi(self.packed, *code, self.scales, self.block, *columns)

    def values(self, rows: int, count: int) -> Float32[Tensor, "{rows} {count}"]:
        digits = reference.unpack(self.packed, self.size, rows * self.row_codes).view(-1, len(self.offset))
        points = voronoi_points(digits, self.basis, self.offset, self.size).view(rows, self.row_codes)[:, :count]
        return points * _spread(self.scales, self.block, count)


@dataclass(frozen=True, eq=False)
class GroupedPart(_DensePart):
    """Companded lattices of groups of consecutive columns (octavo.kernels.reference.lattice).

    Attributes:
        packed: digits; group after group, in each row after row.
        group: columns of a group; the last has what is left, up to whole vectors.
        widths: bits of each group's digits.
        basis: of each group; columns are basis vectors.
        companding: μ of each group.
        scales, block, columns: as of `VoronoiPart`.
    """

    packed: UInt8[Tensor, " bytes"]
    group: int
    widths: UInt8[Tensor, " groups"]
    basis: Float32[Tensor, "groups d d"]
    companding: Float32[Tensor, " groups"]
    scales: Float[Tensor, "_ _"]
    block: int
    columns: Columns = ALL

    def join(self, native: Any) -> None:
        columns = self.columns.numbers, self.columns.factors
        lattices = self.group, self.widths, self.basis, self.companding
        native.add_grouped(self.packed, *lattices, self.scales, self.block, *columns)

    def values(self, rows: int, count: int) -> Float32[Tensor, "{rows} {count}"]:
        d = self.basis.shape[1]
        whole, start, found = -(-count // d) * d, 0, []
        for number, bits in enumerate(self.widths.tolist()):
            own = min(self.group, whole - number * self.group)
            size = rows * own * bits // 8
            digits = reference.unpack(self.packed[start : start + size], 1 << bits, rows * own).view(-1, d)
            points = companded_points(digits, self.basis[number], self.companding[number], 1 << bits)
            found.append(points.view(rows, own))
            start += size
        return torch.cat(found, 1)[:, :count] * _spread(self.scales, self.block, count)


def _spread(scales: Float[Tensor, "_ _"], block: int, count: int) -> Float32[Tensor, "_ {count}"]:
    return scales.float()[:, torch.arange(count, device=scales.device) // block]
