"""A format: element × scaling × sparse outliers × code. A value that names itself, counts its bits, and quantizes.

Parts of a quantized tensor, for fixed-width formats (octavo.formats.fixed_width writes and reads them):

- `codes`: uint8, packed (octavo.kernels.layout); ranks in the sorted codebook, or bit patterns of complete formats;
- `scales`: [rows or 1, blocks] in the scale's own dtype; `scale`: float32 second level, where the type has one;
- `codebook`: float32 [levels], for codebooks that the format string does not spell out;
- `outlier_index`, `outlier_value`: see octavo.formats.outliers.

octavo.formats.column_groups, octavo.formats.fixed_trellis, octavo.formats.entropy_coded and octavo.formats.lattice have
their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal

from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.formats import column_groups, fixed_trellis, fixed_width, outlier_rounder
from octavo.formats.column_groups import ColumnGroups
from octavo.formats.elements.element import Element
from octavo.formats.elements.grid import Grid
from octavo.formats.elements.trellis import Trellis
from octavo.formats.importance import Importance
from octavo.formats.lattice.element import VectorElement
from octavo.formats.microscaling import Microscaling
from octavo.formats.outliers import outlier_bits
from octavo.formats.rounding import Rounder
from octavo.formats.scaling import Scaling
from octavo.formats.tensor import QuantizedTensor
from octavo.kernels import packed_bytes


@dataclass(frozen=True)
class Format:
    """What the numbers of a tensor are.

    Attributes:
        element: the values that a scaled weight may take.
        scaling: what shares a scale, and how it is found and stored.
        outliers: fraction of weights kept in bfloat16.
        code: `fixed` width, or entropy coded by asymmetric numeral systems (`ans`).
    """

    element: Element | Trellis | Grid | Microscaling | ColumnGroups | VectorElement
    scaling: Scaling = field(default_factory=Scaling)
    outliers: float = 0.0
    code: Literal["fixed", "ans"] = "fixed"

    def __post_init__(self) -> None:
        if self.code not in ("fixed", "ans"):
            raise FormatError(f"unknown code {self.code!r}", "use fixed or ans")
        if not 0 <= self.outliers <= 0.5:
            raise FormatError(f"outliers={self.outliers} is out of range", "give a fraction up to 1/2, e.g. 0.001")
        if isinstance(self.element, Grid):
            if self.code != "ans":
                raise FormatError(f"{self.element} has no fixed width", f"write {self.element} ... ans")
            if self.outliers:
                raise FormatError(f"{self.element} has no outliers", f"write {self.element} {self.scaling} ans")
        elif isinstance(self.element, ColumnGroups | Trellis | VectorElement) and self.code != "fixed":
            raise FormatError(f"{self.element} has fixed width", f"write {self.element} {self.scaling}")
        elif self.scaling.granularity == "separable":
            raise FormatError("separable steps belong to grids", "write grid(step=...) separable ans, or e.g. b64")
        elif isinstance(self.element, VectorElement):
            self.element.check(self.scaling)
        if isinstance(self.element, Microscaling) and (
            self.scaling != self.element.scaling or self.outliers or self.code != "fixed"
        ):
            raise FormatError(f"{self.element} is a complete format", f"write {self.element} alone")

    @classmethod
    def parse(cls, text: str) -> Format:
        """The format a string names, e.g. `cbrt-t(df=5)@3 b64 absmax:bf16`; the grammar is in octavo.formats.spec.

        Raises:
            FormatError: the string names none.
        """
        from octavo.formats.spec import parse

        return parse(text)

    def __str__(self) -> str:
        """The canonical string; `Format.parse` reads it back to an equal format."""
        from octavo.formats.spec import text_of

        return text_of(self)

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {
            "element": str(self.element),
            "granularity": self.scaling.granularity,
            "statistic": self.scaling.statistic,
            "scale": self.scaling.scale,
            "outliers": self.outliers,
            "code": self.code,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Format:
        """The inverse of `to_json`.

        Raises:
            FormatError: a field is missing, unknown or makes no sense.
        """
        from octavo.formats.spec import from_json

        return from_json(fields)

    @property
    def levels(self) -> int | None:
        """Size of the alphabet of codes; None for grids, which have no end."""
        return None if isinstance(self.element, Grid) else self.element.levels

    def stored_bits(self, shape: tuple[int, ...]) -> int:
        """Exact bits of all parts of a tensor of that shape, as `QuantizedTensor.stored_bits` counts them.

        Raises:
            FormatError: the format is entropy coded, so that its size depends on the data, or the shape is empty.
        """
        if self.code != "fixed" or isinstance(self.element, Grid):
            raise FormatError(f"the size of {self} depends on the data", "quantize, and ask the result")
        rows, columns = matrix_shape(shape)
        if self.outliers:
            rest = replace(self, outliers=0.0).stored_bits(shape)
            return rest + outlier_bits(self.outliers, rows * columns)
        if isinstance(self.element, ColumnGroups):
            return column_groups.stored_bits(self, rows, columns)
        if isinstance(self.element, Trellis):
            return fixed_trellis.stored_bits(self.element, self.scaling, rows, columns)
        if isinstance(self.element, VectorElement):
            return self.element.stored_bits(self.scaling, rows, columns)
        scale_rows, blocks = self.scaling.scales_shape(rows, columns)
        kind = self.scaling.kind
        # NVFP4's second level is the type's own; E8M0 has none.
        bits = 8 * packed_bytes(rows * columns, self.element.levels)
        bits += scale_rows * blocks * kind.bits + 32 * kind.second_level
        return bits + (32 * self.element.levels if self.element.stored else 0)

    def bits(self, shape: tuple[int, ...]) -> float:
        """Exact bits per weight of a tensor of that shape; FormatError for entropy-coded formats."""
        return self.stored_bits(shape) / prod(shape)

    def settle(self, weights: Shaped[Tensor, "..."], importance: Importance | None = None) -> Rounder:
        """Everything about a tensor's parts but the codes: scales, codebook, grid.

        Args:
            weights: any float dtype, at least one axis; the last axis is the input, all others together are rows.
            importance: how much each row and column matters; weighs scale search, codebook fits and outliers.

        Raises:
            FormatError: a weight is NaN or infinite, the tensor is empty, or the importance has another shape.
        """
        matrix_shape(tuple(weights.shape))
        if not weights.is_floating_point():
            raise FormatError(f"a tensor of {weights.dtype} has no weights to quantize", "exclude the tensor")
        if self.outliers:
            return outlier_rounder.settle(self, weights, importance)
        if self.code == "ans":
            from octavo.formats import entropy_coded

            return entropy_coded.settle(self, weights, importance)
        if isinstance(self.element, ColumnGroups):
            return column_groups.settle(self, weights, importance)
        if isinstance(self.element, Trellis):
            return fixed_trellis.settle(self, weights, importance)
        if isinstance(self.element, VectorElement):
            return self.element.settle(self, weights, importance)
        return fixed_width.settle(self, weights, importance)

    def quantize(self, weights: Shaped[Tensor, "..."], importance: Importance | None = None) -> QuantizedTensor:
        """The parts that stand for a tensor; arguments and errors are those of `settle`."""
        return self.settle(weights, importance).quantize(weights)

    def dequantize(self, quantized: QuantizedTensor) -> Float32[Tensor, "..."]:
        """The tensor that the parts stand for, float32."""
        if self.outliers:
            return outlier_rounder.dequantize(quantized)
        if self.code == "ans":
            from octavo.formats import entropy_coded

            return entropy_coded.dequantize(quantized)
        if isinstance(self.element, ColumnGroups):
            return column_groups.dequantize(quantized)
        if isinstance(self.element, Trellis):
            return fixed_trellis.dequantize(quantized)
        if isinstance(self.element, VectorElement):
            return self.element.dequantize(quantized)
        return fixed_width.dequantize(quantized)

    def fake_quantize(
        self, weights: Float[Tensor, "..."], importance: Importance | None = None
    ) -> Float32[Tensor, "..."]:
        """The float32 tensor that comes back after quantizing."""
        return self.dequantize(self.quantize(weights, importance))


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor: the last axis against all others.

    Raises:
        FormatError: no axis, or no element.
    """
    if not shape or not prod(shape):
        raise FormatError(f"a tensor of shape {tuple(shape)} has no weights", "exclude the tensor")
    return prod(shape[:-1]), shape[-1]
