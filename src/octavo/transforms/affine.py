"""Invertible affine maps T(x) = A x + v, and families of A whose parameters are free and whose volume is known.

Every family starts from an orthogonal matrix `start` and is that matrix while nothing has been learned:

    rotation   A = start · Q                            diagonal   A = start · diag(s)
    qr         A = start · Q · (R + diag(s))            lu         A = start · L · (U + diag(s))

Q is a rotation (`octavo.transforms.rotation`), R and U are strictly upper triangular, L is unit lower triangular and
s = exp(l). So log|det A| = sum l exactly, and the inverse is made of triangular solves and transposes.

Source: "LATMiX: Learnable Affine Transformations for Microscaling Quantization of LLMs", arXiv 2602.17681.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from octavo.base.errors import OctavoError
from octavo.transforms.rotation import Method, rotation_of

Family = Literal["rotation", "diagonal", "qr", "lu"]
FAMILIES: tuple[Family, ...] = ("rotation", "diagonal", "qr", "lu")

CONDITION = 1e3
"""Condition number above which a map is refused: its inverse would lose ten bits of the weights it is folded into."""


@dataclass(frozen=True, eq=False)
class Affine:
    """One map, or one for each of several heads: x to A x + v.

    Attributes:
        matrix: A.
        inverse: its inverse.
        shift: v; None is zero.
    """

    matrix: Float[Tensor, "*heads n n"]
    inverse: Float[Tensor, "*heads n n"]
    shift: Float[Tensor, "*heads n"] | None = None

    def __call__(self, values: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
        """T(x) for every row x; of a single map."""
        mapped = values @ self.matrix.mT
        return mapped if self.shift is None else mapped + self.shift

    def undo(self, values: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
        """T⁻¹(y) for every row y; of a single map."""
        return (values if self.shift is None else values - self.shift) @ self.inverse.mT

    @property
    def condition(self) -> float:
        """The largest condition number of the matrices; infinite if one is singular or not finite."""
        if not bool(self.matrix.isfinite().all()):
            return float("inf")
        values = torch.linalg.svdvals(self.matrix.detach().double())
        return float((values[..., 0] / values[..., -1]).max())

    def to(self, dtype: torch.dtype) -> Affine:
        """The same map in another dtype; nothing is computed anew."""
        shift = None if self.shift is None else self.shift.to(dtype)
        return Affine(self.matrix.to(dtype), self.inverse.to(dtype), shift)


def orthogonal(matrix: Float[Tensor, "*heads n n"]) -> Affine:
    """The map of an orthogonal matrix, whose inverse is its transpose."""
    return Affine(matrix, matrix.mT)


def affine(
    matrix: Float[Tensor, "*heads n n"], shift: Float[Tensor, "*heads n"] | None = None, limit: float = CONDITION
) -> Affine:
    """The map of any invertible matrix, float64, its inverse computed.

    Raises:
        OctavoError: the matrix is singular, or its condition number is above `limit`.
    """
    wide, moved = matrix.double(), None if shift is None else shift.double()
    checked(Affine(wide, wide, moved), limit)
    return Affine(wide, torch.linalg.inv(wide), moved)


def checked(map: Affine, limit: float = CONDITION) -> Affine:
    """The same map.

    Raises:
        OctavoError: its condition number is above `limit`, or it is not finite.
    """
    condition = map.condition
    parts = [map.inverse] if map.shift is None else [map.inverse, map.shift]
    if not condition <= limit or not all(bool(part.isfinite().all()) for part in parts):
        raise OctavoError(
            f"a transform's condition number is {condition:.3g}, and weights bear {limit:g}",
            "learn more slowly, with a larger penalty on the volume, or take a rotation",
        )
    return map


class LearnedMap(nn.Module):
    """An affine map whose parameters are free; equal to its start until it learns.

    Args:
        family: one of `FAMILIES`.
        start: an orthogonal matrix, or one for each head.
        shifted: whether v is learned too.
        method: how rotations are made of free matrices.
        dtype: of the parameters.
    """

    start: Tensor

    def __init__(
        self,
        family: Family,
        start: Float[Tensor, "*heads n n"],
        shifted: bool = False,
        method: Method = "cayley",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if family not in FAMILIES:
            raise OctavoError(f"there is no family of maps {family!r}", f"choose one of {', '.join(FAMILIES)}")
        self.family: Family = family
        self.method: Method = method
        self.register_buffer("start", start.to(dtype))

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, dtype=dtype, device=start.device))

        self.turn = zeros(*start.shape) if family in ("rotation", "qr") else None
        self.lower = zeros(*start.shape) if family == "lu" else None
        self.upper = zeros(*start.shape) if family in ("qr", "lu") else None
        self.log_scale = zeros(*start.shape[:-1]) if family != "rotation" else None
        self.shift = zeros(*start.shape[:-1]) if shifted else None

    def affine(self) -> Affine:
        """The map as it stands, through which gradients flow."""
        identity = torch.eye(self.start.shape[-1], dtype=self.start.dtype, device=self.start.device)
        matrix, inverse = self.start, self.start.mT
        if self.turn is not None:
            rotation = rotation_of(self.turn, self.method)
            matrix, inverse = matrix @ rotation, rotation.mT @ inverse
        if self.lower is not None:
            lower = identity + self.lower.tril(-1)
            matrix = matrix @ lower
            inverse = torch.linalg.solve_triangular(lower, inverse, upper=False, unitriangular=True)
        if self.log_scale is not None:
            scales = torch.diag_embed(self.log_scale.exp())
            upper = scales if self.upper is None else scales + self.upper.triu(1)
            matrix = matrix @ upper
            inverse = torch.linalg.solve_triangular(upper, inverse, upper=True)
        return Affine(matrix, inverse, self.shift)

    def log_determinant(self) -> Float[Tensor, "*heads"]:
        """log|det A|: the sum of l."""
        if self.log_scale is None:
            return torch.zeros(self.start.shape[:-2], dtype=self.start.dtype, device=self.start.device)
        return self.log_scale.sum(-1)

    def volume(self) -> Float[Tensor, ""]:
        """The squared log-volume, summed over heads. It is zero where the map neither shrinks nor inflates space."""
        return self.log_determinant().square().sum()
