"""A format while the weights it is for are still learning: what stays, and what follows the weights.

- `FrozenCodebook`, scalars of fixed width: the codebook is estimated once and stays, the scales follow the weights.
- `FrozenMicroscaling`, MX and NVFP4: there is nothing to estimate, and values are found without codes.
- `Settling`, every other format: everything follows the weights and is settled anew each time. Right, and slow.
- `FrozenParts`: scales, codebook, groups and all stay as some quantized tensor has them, and only codes follow.

Each gives the values of weights and the quantized tensor that stands for exactly these values: what a network was
trained with is what is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.formats import fixed_width
from octavo.formats.column_groups import ColumnGroups, GroupsRounder, members
from octavo.formats.elements.element import Element
from octavo.formats.fixed_width import FixedRounder
from octavo.formats.format import Format
from octavo.formats.importance import Importance
from octavo.formats.microscaled_values import microscaled_values
from octavo.formats.microscaling import Microscaling, MicroscalingRounder
from octavo.formats.outlier_rounder import OutlierRounder, apart, rest_of
from octavo.formats.rounding import Rounder
from octavo.formats.scaling import unchecked_statistic
from octavo.formats.tensor import QuantizedTensor
from octavo.kernels import ops, unpack


class Frozen(Protocol):
    """A format and what was estimated of one tensor.

    Attributes:
        format: the format.
    """

    @property
    def format(self) -> Format: ...

    def values(self, weights: Float[Tensor, "..."]) -> Float32[Tensor, "..."]:
        """The values that stand for the weights; no gradient flows."""
        ...

    def quantize(self, weights: Float[Tensor, "..."]) -> QuantizedTensor:
        """The parts behind these values."""
        ...


@dataclass(frozen=True, eq=False)
class FrozenCodebook:
    """A scalar format of fixed width whose codebook stays and whose scales follow the weights (see `Frozen`).

    On a GPU nothing here makes the host wait, but for scales of types u8 and s8. NaN among the weights gives NaN and no
    error: training sees it in its loss.

    Attributes:
        format: the format; its statistic is none that is searched.
        codebook: in units of the scale.
    """

    format: Format
    codebook: Float32[Tensor, " levels"]

    def values(self, weights: Float[Tensor, "..."]) -> Float32[Tensor, "..."]:
        matrix = _matrix(weights)
        rows, columns = matrix.shape
        run = self.format.scaling.run(columns)
        scales = fixed_width.used_scales(self.format.scaling, self._stored(matrix))
        codes = ops.quantize(matrix, scales, self.codebook, run)
        # With 256 entries a codebook reads codes as plain bytes: they are never packed.
        table = torch.cat([self.codebook, self.codebook[-1:].expand(256 - len(self.codebook))])
        found = ops.unpack_dequantize(codes.view(-1), scales, table, run, rows, columns, torch.float32)
        return found.view(weights.shape)

    def codes(self, weights: Float[Tensor, "..."]) -> UInt8[Tensor, "..."]:
        """The index of each weight's value in the codebook."""
        matrix = _matrix(weights)
        scales = fixed_width.used_scales(self.format.scaling, self._stored(matrix))
        run = self.format.scaling.run(matrix.shape[1])
        return ops.quantize(matrix, scales, self.codebook, run).view(weights.shape)

    def quantize(self, weights: Float[Tensor, "..."]) -> QuantizedTensor:
        matrix = _matrix(weights)
        element = self.format.element
        assert isinstance(element, Element)
        parts = self._stored(matrix)
        if element.stored:
            parts["codebook"] = self.codebook
        rounder = FixedRounder(self.format, (matrix.shape[0], matrix.shape[1]), parts, self.codebook)
        return rounder.quantize(weights)

    def _stored(self, matrix: Float[Tensor, "rows columns"]) -> dict[str, Tensor]:
        """The parts "scales" and, of two-level types, "scale"."""
        element, scaling = self.format.element, self.format.scaling
        assert isinstance(element, Element)
        scales = unchecked_statistic(matrix, scaling) / element.span(scaling.base, scaling.block)
        level = scaling.kind.level(scales)
        stored = {"scales": scaling.kind.saturated(scales, level, scaling.rounds_up)}
        return stored if level is None else {**stored, "scale": level}


@dataclass(frozen=True, eq=False)
class FrozenMicroscaling:
    """A complete format, whose scales follow the weights (see `Frozen`).

    On a GPU nothing in `values` makes the host wait. NaN among the weights gives NaN there and an error in `quantize`.

    Attributes:
        format: its element is a `Microscaling`.
    """

    format: Format

    def values(self, weights: Float[Tensor, "..."]) -> Float32[Tensor, "..."]:
        element = self.format.element
        assert isinstance(element, Microscaling)
        return microscaled_values(element, _matrix(weights)).view(weights.shape)

    def quantize(self, weights: Float[Tensor, "..."]) -> QuantizedTensor:
        return self.format.quantize(weights.detach())


@dataclass(frozen=True, eq=False)
class Settling:
    """A format that is settled anew for the weights at each use (see `Frozen`).

    Attributes:
        format: any format.
        importance: of the weights' rows and columns, if the format asks for it.
    """

    format: Format
    importance: Importance | None = None

    def values(self, weights: Float[Tensor, "..."]) -> Float32[Tensor, "..."]:
        return self.format.fake_quantize(weights.detach(), self.importance)

    def quantize(self, weights: Float[Tensor, "..."]) -> QuantizedTensor:
        return self.format.quantize(weights.detach(), self.importance)


@dataclass(frozen=True, eq=False)
class FrozenParts:
    """A format whose parts stay, all but the codes (see `Frozen`).

    Attributes:
        format: a format of fixed width.
        rounder: its scales, codebook and so on.
    """

    format: Format
    rounder: Rounder

    def values(self, weights: Float[Tensor, "..."]) -> Float32[Tensor, "..."]:
        return self.quantize(weights).dequantize()

    def quantize(self, weights: Float[Tensor, "..."]) -> QuantizedTensor:
        return self.rounder.quantize(weights.detach())


def freeze(
    format: Format,
    weights: Float[Tensor, "..."],
    importance: Importance | None = None,
    mass: Float[Tensor, "..."] | None = None,
) -> Frozen:
    """What of a format is estimated once, from the weights as they are now.

    The fit is a pure function of its arguments: whoever holds the same weights finds the same codebook.

    Args:
        format: any format.
        weights: the tensor.
        importance: of its rows and columns; for formats that ask for it, and for the fit of a codebook.
        mass: what each weight counts in the fit of a codebook, for instance its squared gradient.

    Raises:
        FormatError: a weight is NaN or infinite, or mass is given for a format without a codebook to fit.
    """
    element, scaling = format.element, format.scaling
    scalar = isinstance(element, Element) and not isinstance(element, Microscaling)
    if not scalar or format.code != "fixed" or format.outliers or scaling.statistic == "search":
        if mass is not None:
            raise FormatError(f"{format} has no codebook that stays", "leave out the weighting of its fit")
        return following(format, importance)
    assert isinstance(element, Element)
    matrix = _matrix(weights)
    known = None if importance is None else importance.checked(*matrix.shape).normalized(matrix.device)
    own = None if mass is None else mass.reshape(matrix.shape)
    return FrozenCodebook(format, fixed_width.scales_and_codebook(element, scaling, matrix, known, own)[1])


def following(format: Format, importance: Importance | None = None) -> FrozenMicroscaling | Settling:
    """A format of which nothing is estimated beforehand."""
    if isinstance(format.element, Microscaling) and format.code == "fixed" and not format.outliers:
        return FrozenMicroscaling(format)
    return Settling(format, importance)


def freeze_parts(quantized: QuantizedTensor) -> FrozenParts:
    """All of a quantized tensor but its codes.

    Raises:
        FormatError: its codes are no scalars of fixed width: a step of training would take minutes.
    """
    return FrozenParts(quantized.format, _rounder(quantized))


def _rounder(quantized: QuantizedTensor) -> Rounder:
    format, parts = quantized.format, quantized.parts
    element, columns = format.element, quantized.shape[-1]
    shape = quantized.numel // columns, columns
    if format.code == "fixed" and format.outliers:
        rest = rest_of(quantized)
        return OutlierRounder(format, shape, _rounder(rest), apart(quantized)[0])
    if isinstance(element, ColumnGroups):
        number = unpack(parts["group"], len(element.elements), columns)
        return GroupsRounder(format, number, {position: _rounder(group) for position, _, group in members(quantized)})
    kept = {name: part for name, part in parts.items() if name != "codes"}
    if isinstance(element, Microscaling):
        return MicroscalingRounder(format, element, kept)
    if not isinstance(element, Element) or format.code != "fixed":
        raise FormatError(
            f"codes of {format} cannot follow weights that learn: rounding a layer to it takes seconds",
            "choose scalars of fixed width, for instance lloyd@2 b64 absmean:bf16",
        )
    codebook = parts.get("codebook")
    if codebook is None:
        codebook = element.codebook(format.scaling.base, format.scaling.block).to(parts["codes"].device)
    return FixedRounder(format, shape, kept, codebook)


def _matrix(weights: Float[Tensor, "..."]) -> Float[Tensor, "rows columns"]:
    matrix = weights.detach().reshape(-1, weights.shape[-1]).contiguous()
    return matrix if matrix.dtype in (torch.float32, torch.bfloat16, torch.float16) else matrix.float()
