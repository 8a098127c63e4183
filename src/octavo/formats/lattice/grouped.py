"""Grouped lattice vector quantization (GLVQ): `glvq(d=8)@2`, `glvq(d=8,widths=unequal)@2`.

Consecutive columns of a matrix, 128 of them, are a group with a companded lattice of its own (octavo.formats.lattice.
companded), learned on the group's vectors: runs of d consecutive weights of a row, in units of their scales. Codes are
half-integers; a weight takes as many bits whatever d is. With unequal widths some groups take one bit more and others
one bit less, their mean being exact.

Parts of a matrix, the last vector of each row filled up with zeros to whole d columns:

- `codes`: uint8; group after group, in each row after row, packed as an alphabet of 2^bits; z + (2^bits - 1)/2;
- `basis`: float16 [groups, d, d]; `companding`: float16 [groups], μ;
- `widths`: uint8 [groups], bits of each group, where they are unequal;
- `scales` and, for two-level types, `scale`, as of any other element.

Rows differ in size, and one lattice serves all rows of a group: the usual scaling is one number for a row, which at 2
bits takes 7 to 19 % off the error of one for the tensor (benchmarks/lattices.py, with error feedback).

Source: "Learning Grouped Lattice Vector Quantizers for Low-Bit LLM Compression" (arXiv 2510.20984).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from octavo.base.errors import CheckpointError, FormatError
from octavo.formats.elements.tokens import refuse_unknown, split_token, whole_number
from octavo.formats.importance import Importance
from octavo.formats.lattice.companded import CompandedLattice
from octavo.formats.lattice.element import PartShape, VectorElement, as_matrix, filled, in_units, spread_scales, taken
from octavo.formats.lattice.grouped_rounder import GROUP, GroupsRounder, decoded, stored_lattices
from octavo.formats.lattice.learning import learn
from octavo.formats.lattice.metrics import sampled, vector_metrics
from octavo.formats.lattice.widths import exchanged
from octavo.formats.scale_search import stored_scales
from octavo.formats.scaling import Scaling, block_statistic
from octavo.formats.tensor import QuantizedTensor

if TYPE_CHECKING:
    from octavo.formats.format import Format

NAME = "glvq"
EXAMPLE = "glvq(d=8)@2"

DIMENSIONS = (8, 16, 32)

SAMPLE = 2048
"""Vectors of a group that its lattice is learned on, at most."""


@dataclass(frozen=True)
class GroupedLattices(VectorElement):
    """Learned lattices for groups of columns.

    Attributes:
        length: d, the weights of a vector: 8, 16 or 32.
        bits: of each weight; with unequal widths their mean.
        unequal: groups may have one bit more or less.
    """

    length: int
    bits: int
    unequal: bool = False

    def __post_init__(self) -> None:
        least, most = (2, 7) if self.unequal else (1, 8)
        if self.dimension not in DIMENSIONS or not least <= self.bits <= most:
            known = ", ".join(map(str, DIMENSIONS))
            raise FormatError(f"{self} is impossible", f"d is one of {known}, bits are {least} to {most}, as {EXAMPLE}")

    @property
    def dimension(self) -> int:
        return self.length

    @property
    def levels(self) -> int:
        return 2**self.bits

    @property
    def usual_scaling(self) -> Scaling:
        return Scaling("channel", "rms", "u8")

    def check(self, scaling: Scaling) -> None:
        super().check(scaling)
        if scaling.statistic == "search":
            raise FormatError(f"{self} learns a basis instead of searching scales", f"write {EXAMPLE} channel rms:u8")

    def groups(self, columns: int) -> Iterator[slice]:
        """Columns of each group, the last vector filled up."""
        for start in range(0, self.padded(columns), GROUP):
            yield slice(start, min(start + GROUP, self.padded(columns)))

    def parts(self, scaling: Scaling, rows: int, columns: int) -> dict[str, PartShape]:
        groups = len(list(self.groups(columns)))
        found = super().parts(scaling, rows, columns)
        found["basis"] = ((groups, self.dimension, self.dimension), torch.float16)
        found["companding"] = ((groups,), torch.float16)
        if self.unequal:
            found["widths"] = ((groups,), torch.uint8)
        return found

    def __str__(self) -> str:
        return f"{NAME}(d={self.dimension}{',widths=unequal' if self.unequal else ''})@{self.bits}"

    def settle(self, format: Format, weights: Float[Tensor, "..."], importance: Importance | None) -> GroupsRounder:
        """Scales, lattices and widths of a tensor (see `Format.settle`).

        Raises:
            FormatError: a weight is NaN or infinite, or the importance has another shape.
        """
        matrix, scaling = as_matrix(weights), format.scaling
        rows, columns = matrix.shape
        scales = stored_scales(block_statistic(matrix, scaling), None, scaling)
        known = None if importance is None else importance.checked(rows, columns).normalized(matrix.device)
        metrics = vector_metrics(known, columns, self.dimension, matrix.device)
        used = spread_scales(scaling, scales, slice(0, columns), columns)
        units = filled(in_units(matrix, used), self.dimension)
        # Of each vector: its errors are in units of its scale, and its row has an importance.
        mass = filled(used / used.abs().max().clamp_min(1e-38), self.dimension)[:, :: self.dimension].square()
        mass = mass.expand(rows, -1) if known is None else mass * known.row[:, None]
        widths, lattices = self._learned(units, mass, metrics)
        parts = {
            **scales,
            "basis": torch.stack([lattice.basis for lattice in lattices]).half(),
            "companding": torch.stack([lattice.mu for lattice in lattices]).half(),
        }
        if self.unequal:
            parts["widths"] = torch.tensor(widths, dtype=torch.uint8, device=matrix.device)
        return GroupsRounder(format, columns, parts, metrics, tuple(widths))

    def _learned(
        self,
        units: Float32[Tensor, "rows filled"],
        mass: Float32[Tensor, "rows vectors"],
        metrics: Float32[Tensor, "vectors d d"],
    ) -> tuple[list[int], list[CompandedLattice]]:
        """Width and lattice of each group."""
        spans = list(self.groups(units.shape[1]))
        offered = (self.bits - 1, self.bits, self.bits + 1) if self.unequal else (self.bits,)
        learned, losses = [], []
        for span in spans:
            vectors = slice(span.start // self.dimension, span.stop // self.dimension)
            sample, whole = sampled(units[:, span], mass[:, vectors], metrics[vectors], SAMPLE)
            found = [learn(sample, bits) for bits in offered]
            learned.append([lattice for lattice, _ in found])
            losses.append([whole * loss for _, loss in found])
        if not self.unequal:
            return [self.bits] * len(spans), [lattices[0] for lattices in learned]
        moved = exchanged(np.array(losses), [span.stop - span.start for span in spans])
        return [self.bits + by for by in moved], [group[by + 1] for group, by in zip(learned, moved, strict=True)]

    def take_rows(self, quantized: QuantizedTensor, index: Int[Tensor, " chosen"] | slice) -> Float32[Tensor, "_ _"]:
        parts, columns = dict(quantized.parts), quantized.shape[-1]
        rows = quantized.numel // columns
        if parts["scales"].shape[0] > 1:
            parts["scales"] = taken(parts["scales"], index)
        values, start = [], 0
        groups = zip(self.groups(columns), self.widths(parts, columns), stored_lattices(parts), strict=True)
        for span, bits, lattice in groups:
            size = (span.stop - span.start) * bits // 8
            packed = parts["codes"][start : start + rows * size].view(rows, size)[index]
            values.append(decoded(lattice, packed, bits))
            start += rows * size
        scales = spread_scales(quantized.format.scaling, parts, slice(0, columns), columns)
        return torch.cat(values, 1)[:, :columns] * scales

    def widths(self, parts: Mapping[str, Tensor], columns: int) -> list[int]:
        """Bits of each group.

        Raises:
            CheckpointError: they do not have the mean that they must have.
        """
        if not self.unequal:
            return [self.bits for _ in self.groups(columns)]
        widths = parts["widths"].tolist()
        total = sum(bits * (span.stop - span.start) for bits, span in zip(widths, self.groups(columns), strict=True))
        if total != self.bits * self.padded(columns) or not all(1 <= bits <= 8 for bits in widths):
            raise CheckpointError(
                f"widths {widths} of groups have not the mean {self.bits}", "copy the checkpoint again"
            )
        return widths


def parse_grouped_lattices(token: str) -> GroupedLattices:
    """`glvq(d=8)@2`, also `glvq@2`; `widths=unequal` moves bits between groups.

    Raises:
        FormatError: no bits, an unknown argument, or an impossible number.
    """
    name, arguments, levels = split_token(token)
    refuse_unknown(name, arguments, {"d": None, "widths": ("equal", "unequal")})
    if levels is None or levels & (levels - 1):
        raise FormatError(f"{token!r} has no whole number of bits", f"write for instance {EXAMPLE}")
    dimension = whole_number(arguments.get("d", "8"), "d")
    return GroupedLattices(dimension, levels.bit_length() - 1, arguments.get("widths") == "unequal")
