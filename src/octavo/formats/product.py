"""Products with quantized tensors that stay packed: y = x Wᵀ, W being decoded in registers as it is read.

| format | what is multiplied |
|---|---|
| elements of fixed width, complete formats (MX, NVFP4) | codes by their values, a second level of scales in them |
| trellises | streams, the scales of columns in the inputs |
| column groups | the groups, each with its own columns of the inputs |
| `lattice-z` | as integers, which it is |
| resident grids (octavo.formats.grid_resident) | columns of each width, their steps in the inputs; single codes apart |
| any of these with outliers | the rest, and what the outliers differ from it, one by one |
| `lattice-d4`, `lattice-e8`, `glvq` | digits of vectors, decoded a row at a time |
| entropy-coded streams as they are stored | nothing: they are dequantized |

Nothing of a tensor is copied but its scales, where they are stored in other types than float32 and bfloat16 (to
bfloat16 if that holds them all, else to float32), and its outliers (12 bytes each). Results are those of dequantizing
and multiplying in float32, but for the order of its sums, whatever the inputs' dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int32
from torch import Tensor

from octavo.formats import fixed_trellis, fixed_width, grid_resident
from octavo.formats.column_groups import ColumnGroups, members
from octavo.formats.elements.element import Element
from octavo.formats.elements.trellis import Trellis
from octavo.formats.lattice.fixed import FixedLattice
from octavo.formats.lattice.grouped import GroupedLattices
from octavo.formats.lattice.grouped_rounder import GROUP, stored_lattices
from octavo.formats.microscaling import Microscaling
from octavo.formats.outlier_rounder import apart, rest_of
from octavo.formats.tensor import QuantizedTensor
from octavo.kernels.columns import Columns
from octavo.kernels.lattice_parts import GroupedPart, VoronoiPart
from octavo.kernels.product import CodesPart, GridPart, Part, Product, ShiftPart, SparsePart, ZerosPart

FEW = 64
"""Inputs up to which any packed weight is multiplied as it is: more are worth making most of them dense."""


def exact(inputs: Float[Tensor, "*batch cols"]) -> Float[Tensor, "*batch cols"]:
    """Inputs in a dtype that products take and that holds them."""
    return inputs if inputs.dtype == torch.bfloat16 else inputs.float()


def product(quantized: QuantizedTensor, inputs: Float[Tensor, "batch cols"]) -> Float32[Tensor, "batch rows"]:
    """Inputs, float32 or bfloat16, times the transpose of the tensor seen as a matrix.

    Whoever multiplies by one tensor many times keeps what `fused` gives instead.
    """
    ready = fused(quantized)
    if ready is not None:
        return ready(inputs)
    matrix = quantized.dequantize().view(-1, quantized.shape[-1])
    return F.linear(inputs.float(), matrix)


def fused(quantized: QuantizedTensor) -> Product | None:
    """The tensor, seen as a matrix, ready to be multiplied; None for a format that has no product of its own.

    Raises:
        CheckpointError: the positions of the outliers are damaged.
    """
    columns = quantized.shape[-1]
    rows = quantized.numel // columns
    parts = _parts(quantized, None)
    return None if parts is None else Product(rows, columns, parts)


def _parts(quantized: QuantizedTensor, numbers: Int32[Tensor, " columns"] | None) -> list[Part] | None:
    """The parts of a matrix that stands at some columns of the inputs."""
    element = quantized.format.element
    if quantized.format.outliers:
        rest = _parts(rest_of(quantized), numbers)
        return None if rest is None else [*rest, *_outliers(quantized)]
    if "row_step" in quantized.parts:
        return _grid(quantized.parts)
    if quantized.format.code != "fixed":
        return None
    if isinstance(element, ColumnGroups):
        found = [_parts(group, chosen.int()) for _, chosen, group in members(quantized)]
        return [part for parts in found for part in parts or ()]
    if isinstance(element, Trellis):
        return [_trellis(element, quantized, numbers)]
    if isinstance(element, FixedLattice) and element.name == "z":
        digits = torch.arange(element.levels, dtype=torch.uint8)[:, None]
        return [_codes(quantized, element.code.decode(digits)[:, 0], numbers)]
    if isinstance(element, FixedLattice):
        return [_voronoi(element, quantized, numbers)]
    if isinstance(element, GroupedLattices):
        return [_grouped(element, quantized, numbers)]
    if isinstance(element, Microscaling):
        values = element.decode_elements(torch.arange(element.levels, dtype=torch.uint8)[None])[0]
        return [_codes(quantized, values, numbers)]
    if not isinstance(element, Element):
        return None
    scaling = quantized.format.scaling
    stored = quantized.parts.get("codebook")
    return [_codes(quantized, element.codebook(scaling.base, scaling.block) if stored is None else stored, numbers)]


def _codes(quantized: QuantizedTensor, values: Tensor, numbers: Tensor | None) -> CodesPart:
    scaling, parts, columns = quantized.format.scaling, quantized.parts, quantized.shape[-1]
    scales, level = parts["scales"], parts.get("scale")
    values = values.to(scales.device, torch.float32)
    if level is not None and not scaling.kind.is_log_grid:
        # Of a scale of two levels the second is the same for all weights.
        values, scales = values * level, scales.float()
    else:
        scales = fixed_width.used_scales(scaling, parts) if scales.dtype != torch.bfloat16 else scales
    return CodesPart(parts["codes"], columns, values, _narrowed(scales), scaling.run(columns), Columns(numbers))


def _voronoi(element: FixedLattice, quantized: QuantizedTensor, numbers: Tensor | None) -> VoronoiPart:
    parts, scaling, columns = quantized.parts, quantized.format.scaling, quantized.shape[-1]
    scales = _narrowed(scaling.kind.decode(parts["scales"], parts.get("scale")))
    lattice = element.code.lattice
    basis, offset = (torch.from_numpy(each).to(scales.device) for each in (lattice.basis, lattice.generic))
    code = element.padded(columns), element.levels, basis, offset, element.code.listed
    return VoronoiPart(parts["codes"], *code, scales, scaling.run(columns), Columns(numbers))


def _grouped(element: GroupedLattices, quantized: QuantizedTensor, numbers: Tensor | None) -> GroupedPart:
    parts, scaling, columns = quantized.parts, quantized.format.scaling, quantized.shape[-1]
    scales = _narrowed(scaling.kind.decode(parts["scales"], parts.get("scale")))
    stored_lattices(parts)  # refuses what is damaged
    widths = torch.tensor(element.widths(parts, columns), dtype=torch.uint8, device=scales.device)
    lattices = GROUP, widths, parts["basis"].float(), parts["companding"].float()
    return GroupedPart(parts["codes"], *lattices, scales, scaling.run(columns), Columns(numbers))


def _narrowed(scales: Float[Tensor, "_ _"]) -> Float[Tensor, "_ _"]:
    """Scales in bfloat16 if that changes none of them."""
    narrow = scales.to(torch.bfloat16)
    return narrow if bool((narrow == scales).all()) else scales


def _trellis(element: Trellis, quantized: QuantizedTensor, numbers: Tensor | None) -> ShiftPart:
    parts = quantized.parts
    scales, column = fixed_trellis.used_scales(quantized.format.scaling, parts)
    places = _places(element).to(scales.device)
    run = quantized.format.scaling.run(quantized.shape[-1])
    columns = Columns(numbers, column.contiguous())
    return ShiftPart(parts["codes"], places, parts["codebook"], element.bits, scales, run, columns)


@cache
def _places(element: Trellis) -> Float32[Tensor, " states"]:
    return element.places.cpu()


def _outliers(quantized: QuantizedTensor) -> list[Part]:
    """What the outliers differ from the values that the rest has in their place."""
    where, values = apart(quantized)
    if not len(where):
        return []
    columns = quantized.shape[-1]
    differences = values - rest_of(quantized).dequantize().view(-1)[where]
    return [_single(where // columns, where % columns, differences, quantized.numel // columns)]


def _single(row: Tensor, column: Tensor, values: Float32[Tensor, " count"], rows: int) -> SparsePart:
    """Single weights, in the order of their rows."""
    starts = torch.searchsorted(row.contiguous(), torch.arange(rows + 1, device=row.device, dtype=row.dtype))
    return SparsePart(starts, column.to(torch.int32), values)


def _grid(parts: Mapping[str, Tensor]) -> list[Part]:
    """The columns of each width of a resident grid, and the codes apart."""
    row, column = grid_resident.steps(parts)
    numbers = parts["place"].long().argsort()
    # Inputs times these factors stay within the range of float32, whatever the steps.
    largest = column.max()
    factors, row_step = (column / largest)[numbers], row * largest
    points = parts["points"]
    found: list[Part] = []
    for width, span, codes in grid_resident.stored_groups(parts):
        columns = Columns(numbers[span].to(torch.int32), factors[span].contiguous())
        if width == 0:
            assert columns.numbers is not None
            found.append(ZerosPart(columns.numbers))
        elif width == 16:
            found.append(GridPart(codes, points, row_step, columns))
        else:
            values = _grid_values(points, width)
            row_codes = codes.shape[1] * 8 // width
            found.append(CodesPart(codes.view(-1), row_codes, values, row_step[:, None], row_codes, columns))
    if len(parts["far_row"]):
        far_row, far_column = parts["far_row"], parts["far_column"]
        found.append(_single(far_row, far_column, grid_resident.far_values(parts), len(row)))
    return found


def _grid_values(points: Float32[Tensor, " points"], width: int) -> Float32[Tensor, " levels"]:
    """The value of every code of a width."""
    codes = torch.arange(1 << width, device=points.device) - (1 << (width - 1))
    half = len(points) // 2
    return torch.where(codes.abs() <= half, points[(codes + half).clamp(0, 2 * half)], codes.float())
