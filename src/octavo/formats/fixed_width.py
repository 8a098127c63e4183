"""Quantizing to fixed-width codes and back: statistics, scales, codebook, codes, in that order.

A scale is rounded as it is stored before it divides, so that the codes are the nearest for the scale that will be used.
A weight that lies on the midpoint of two values takes the lower one (octavo.kernels.reference.codebook has the exact
rule). Apart from the result, memory is a few times `WEIGHTS_AT_ONCE`, or up to `FIT_SAMPLE` values where a codebook is
fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from octavo import kernels
from octavo.formats import microscaling
from octavo.formats.elements.element import Element
from octavo.formats.importance import Importance
from octavo.formats.microscaling import Microscaling
from octavo.formats.rounding import Rounder
from octavo.formats.scale_search import NEARBY, as_stored, codebook_values, search, settled_scales, stored_scales
from octavo.formats.scaling import Scaling, block_statistic
from octavo.formats.tensor import QuantizedTensor

if TYPE_CHECKING:
    from octavo.formats.format import Format

FIT_SAMPLE = 1 << 22
"""Weights that a codebook is fitted to, at most."""


@dataclass(frozen=True, eq=False)
class FixedRounder:
    """A fixed-width format with its scales and its codebook (see octavo.formats.rounding.Rounder).

    Attributes:
        format: the format.
        shape: rows and columns.
        parts: scales and codebook as they are stored.
        codebook: in units of the scale, float32.
    """

    format: Format
    shape: tuple[int, int]
    parts: Mapping[str, Tensor]
    codebook: Float32[Tensor, " levels"]

    @property
    def together(self) -> int:
        return 1

    @cached_property
    def _scales(self) -> Float32[Tensor, "_ _"]:
        return used_scales(self.format.scaling, self.parts)

    def round(self, columns: slice, values: Float32[Tensor, "rows run"]) -> Float32[Tensor, "rows run"]:
        run = self.format.scaling.run(self.shape[1])
        scales = self._scales[:, torch.arange(columns.start, columns.stop) // run]
        return self.codebook[kernels.quantize(values, scales, self.codebook, 1).long()] * scales

    def quantize(self, weights: Float[Tensor, "..."]) -> QuantizedTensor:
        matrix = _matrix(weights)
        run = self.format.scaling.run(matrix.shape[1])
        codes = kernels.quantize_pack(matrix, self._scales, self.codebook, run)
        return QuantizedTensor(self.format, tuple(weights.shape), {"codes": codes, **self.parts})


def settle(format: Format, weights: Float[Tensor, "..."], importance: Importance | None) -> Rounder:
    """Scales and codebook of a tensor (see `Format.settle`).

    Raises:
        FormatError: a weight is NaN or infinite, or the importance has another shape.
    """
    matrix = _matrix(weights)
    importance = None if importance is None else importance.checked(*matrix.shape).normalized(matrix.device)
    element = format.element
    if isinstance(element, Microscaling):
        return microscaling.settle(format, matrix)
    assert isinstance(element, Element)
    parts, codebook = scales_and_codebook(element, format.scaling, matrix, importance)
    if element.stored:
        parts["codebook"] = codebook
    return FixedRounder(format, (matrix.shape[0], matrix.shape[1]), parts, codebook)


def _matrix(weights: Float[Tensor, "..."]) -> Float[Tensor, "rows columns"]:
    matrix = weights.detach().reshape(-1, weights.shape[-1]).contiguous()
    if matrix.dtype == torch.float64 or matrix.element_size() < 2:
        return matrix.float()
    return matrix


def dequantize(quantized: QuantizedTensor) -> Float32[Tensor, "..."]:
    """The tensor behind the parts, float32."""
    format, parts = quantized.format, quantized.parts
    element = format.element
    if isinstance(element, Microscaling):
        return microscaling.dequantize_matrix(element, quantized).view(quantized.shape)
    assert isinstance(element, Element)
    columns = quantized.shape[-1]
    rows = quantized.numel // columns
    scales = used_scales(format.scaling, parts)
    if element.stored:
        codebook = parts["codebook"]
    else:
        codebook = element.codebook(format.scaling.base, format.scaling.block).to(scales.device)
    run = format.scaling.run(columns)
    return kernels.unpack_dequantize(parts["codes"], scales, codebook, run, rows, columns).view(quantized.shape)


def scales_and_codebook(
    element: Element,
    scaling: Scaling,
    matrix: Float[Tensor, "rows columns"],
    importance: Importance | None,
    mass: Float[Tensor, "rows columns"] | None = None,
) -> tuple[dict[str, Tensor], Float32[Tensor, " levels"]]:
    """The stored scales (parts "scales" and, for two-level types, "scale") and the codebook.

    `mass` is what each weight counts in the fit of the codebook, on top of its importance.

    A codebook that is fitted to searched scales is fitted three times: to the base scales, so that there is something
    to search with, to the scales found, and to the scales as they are stored.
    """
    scales = block_statistic(matrix, scaling) / element.span(scaling.base, scaling.block)
    codebook = None if element.data_driven else element.codebook(scaling.base, scaling.block).to(matrix.device)
    level = None
    if scaling.statistic == "search":
        start, tried = codebook, None
        if start is None:
            start = _fitted(element, scaling, matrix, scales, importance)
            scales = search(matrix, scales, codebook_values(start), scaling, as_stored(scaling, None), importance)
            start, tried = _fitted(element, scaling, matrix, scales, importance), NEARBY
        scales, level = settled_scales(matrix, scales, codebook_values(start), scaling, importance, tried)
    stored = stored_scales(scales, level, scaling)
    if codebook is None:
        codebook = _fitted(element, scaling, matrix, used_scales(scaling, stored), importance, mass)
    return stored, codebook


def used_scales(scaling: Scaling, parts: Mapping[str, Tensor]) -> Float32[Tensor, "_ _"]:
    """The scales behind the parts "scales" and "scale"."""
    return scaling.kind.decode(parts["scales"], parts.get("scale"))


def _fitted(
    element: Element,
    scaling: Scaling,
    matrix: Tensor,
    scales: Tensor,
    importance: Importance | None,
    own: Tensor | None = None,
) -> Tensor:
    """A codebook fitted to (a sample of) the weights in units of their scales, squared errors in those of weights."""
    rows, columns = matrix.shape
    if matrix.numel() <= FIT_SAMPLE:
        index = torch.arange(matrix.numel(), device=matrix.device)
    else:
        draws = torch.Generator().manual_seed(FIT_SAMPLE)
        index = torch.randint(matrix.numel(), (FIT_SAMPLE,), generator=draws).to(matrix.device)
    row, column = index // columns, index % columns
    scale = scales[row if scales.shape[0] == rows else 0, column // scaling.run(columns)]
    filled = scale != 0
    values = torch.where(filled, matrix.view(-1)[index].float() / torch.where(filled, scale, 1), 0)
    mass = scale.square()
    if importance is not None:
        mass = mass * importance.row[row] * importance.column[column]
    if own is not None:
        mass = mass * own.reshape(-1)[index]
    plain = scales.numel() == 1 and importance is None and own is None
    return element.fit(values, None if plain else mass, scaling.base, scaling.block).to(matrix.device)
