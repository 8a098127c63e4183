"""Which parts a format has, their shapes and dtypes: a file that says otherwise is refused before it is read."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch

from octavo.base.errors import CheckpointError
from octavo.formats.column_groups import ColumnGroups
from octavo.formats.elements.trellis import KNOTS, Trellis
from octavo.formats.format import Format, matrix_shape
from octavo.formats.lattice.element import VectorElement
from octavo.formats.outliers import outlier_bits, outlier_count
from octavo.hub.headers import Header
from octavo.kernels import packed_bytes
from octavo.kernels.shift_trellis import column_bytes


def expected_parts(format: Format, shape: tuple[int, ...]) -> dict[str, Header]:
    """Shape and dtype of every part of a tensor of that shape; a coded stream has the length -1, for it varies."""
    rows, columns = matrix_shape(shape)
    parts: dict[str, Header] = {}
    if count := outlier_count(format.outliers, rows * columns):
        index = outlier_bits(format.outliers, rows * columns) // 8 - 2 * count
        parts["outlier_index"] = Header((index,), torch.uint8)
        parts["outlier_value"] = Header((count,), torch.bfloat16)
    if isinstance(format.element, ColumnGroups):
        parts["group"] = Header((format.element.index_bytes(columns),), torch.uint8)
        for number, group, count in format.element.groups(format.scaling, columns):
            parts |= {f"{name}_{number}": header for name, header in expected_parts(group, (rows, count)).items()}
        return parts
    if isinstance(format.element, VectorElement):
        found = format.element.parts(format.scaling, rows, columns)
        return parts | {name: Header(shape, dtype) for name, (shape, dtype) in found.items()}
    if format.code == "ans":
        parts["coded"] = Header((-1,), torch.uint8)
    if format.levels is None:
        return parts
    if isinstance(format.element, Trellis):
        parts |= _trellis_parts(format.element, rows, columns)
    elif format.code == "fixed":
        parts["codes"] = Header((packed_bytes(rows * columns, format.levels),), torch.uint8)
    kind = format.scaling.kind
    parts["scales"] = Header(format.scaling.scales_shape(rows, columns), kind.dtype)
    if kind.second_level:
        parts["scale"] = Header((kind.second_level,), torch.float32)
    if not isinstance(format.element, Trellis) and format.element.stored:  # pyright: ignore[reportAttributeAccessIssue]
        parts["codebook"] = Header((format.levels,), torch.float32)
    return parts


def _trellis_parts(element: Trellis, rows: int, columns: int) -> dict[str, Header]:
    """What a trellis has beside its scales."""
    return {
        "codes": Header((columns, column_bytes(rows, element.bits)), torch.uint8),
        "codebook": Header((KNOTS,), torch.float32),
        "column_scales": Header((1, columns), torch.uint8),
        "column_scale": Header((2,), torch.float32),
    }


def check_parts(name: str, format: Format, shape: tuple[int, ...], parts: Mapping[str, Header]) -> None:
    """Hold the parts of tensor `name` against its format.

    Raises:
        CheckpointError: a part is missing, surplus, or of another shape or dtype.
    """
    remedy = "the checkpoint is damaged; copy or compress it again"
    if not parts:
        raise CheckpointError(f"tensor {name}: the files hold no part of it", remedy)
    if prod(shape) == 0 or any(side < 1 for side in shape):
        raise CheckpointError(f"tensor {name}: config.json gives it the impossible shape {list(shape)}", remedy)
    expected = expected_parts(format, shape)
    for part in sorted(expected.keys() | parts.keys()):
        wanted, found = expected.get(part), parts.get(part)
        if wanted is not None and found is not None and wanted.shape == (-1,) and len(found.shape) == 1:
            wanted = Header(found.shape, wanted.dtype)
        if wanted != found:
            raise CheckpointError(
                f"tensor {name}: format {format} has {part} {_describe(wanted)}, and the file {_describe(found)}",
                remedy,
            )


def _describe(header: Header | None) -> str:
    return "absent" if header is None else f"{str(header.dtype).removeprefix('torch.')}{list(header.shape)}"
