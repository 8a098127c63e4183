"""Ops for products with the parts of packed matrices on a GPU: schemas and shape rules; Triton runs them.

None of them waits for the device or depends on what tensors hold, so that `torch.compile` and CUDA graphs can hold
them. The first call of a product looks at its tensors, and imports Triton: it is made before a graph is. What a part
adds to may be given as `onto`, which saves a pass over the outputs.
"""

# No postponed annotations here: torch reads the schema from the annotations themselves.
# pyright: reportMissingImports=false
import torch
from torch import Tensor


@torch.library.custom_op("octavo::codes_product", mutates_args=())
def codes_product(
    inputs: Tensor,
    packed: Tensor,
    values: Tensor,
    scales: Tensor,
    numbers: Tensor | None,
    factors: Tensor | None,
    onto: Tensor | None,
    rows: int,
    row_codes: int,
    block: int,
    affine: bool,
) -> Tensor:
    from octavo.kernels.triton import codes_product as run
    from octavo.kernels.triton.operands import Taken

    taken = Taken(numbers, factors)
    codes = run.Codes(packed, values, scales, rows, taken.count(inputs), row_codes, block, affine)
    return run.codes_product(inputs, codes, taken, onto)


@codes_product.register_fake
def _(
    inputs: Tensor,
    packed: Tensor,
    values: Tensor,
    scales: Tensor,
    numbers: Tensor | None,
    factors: Tensor | None,
    onto: Tensor | None,
    rows: int,
    row_codes: int,
    block: int,
    affine: bool,
) -> Tensor:
    return inputs.new_empty(inputs.shape[0], rows, dtype=torch.float32)


@torch.library.custom_op("octavo::grid_product", mutates_args=())
def grid_product(
    inputs: Tensor,
    codes: Tensor,
    points: Tensor,
    row_step: Tensor,
    numbers: Tensor | None,
    factors: Tensor | None,
    onto: Tensor | None,
) -> Tensor:
    from octavo.kernels.triton import part_products
    from octavo.kernels.triton.operands import Taken

    return part_products.grid_product(inputs, codes, points, row_step, Taken(numbers, factors), onto)


@grid_product.register_fake
def _(
    inputs: Tensor,
    codes: Tensor,
    points: Tensor,
    row_step: Tensor,
    numbers: Tensor | None,
    factors: Tensor | None,
    onto: Tensor | None,
) -> Tensor:
    return inputs.new_empty(inputs.shape[0], codes.shape[0], dtype=torch.float32)


@torch.library.custom_op("octavo::shift_product", mutates_args=())
def shift_product(
    inputs: Tensor,
    codes: Tensor,
    table: Tensor,
    scales: Tensor,
    numbers: Tensor | None,
    factors: Tensor | None,
    onto: Tensor | None,
    bits: int,
    rows: int,
    block: int,
) -> Tensor:
    from octavo.kernels.triton import part_products
    from octavo.kernels.triton.operands import Taken

    taken = Taken(numbers, factors)
    return part_products.shift_product(inputs, codes, table, bits, rows, scales, block, taken, onto)


@shift_product.register_fake
def _(
    inputs: Tensor,
    codes: Tensor,
    table: Tensor,
    scales: Tensor,
    numbers: Tensor | None,
    factors: Tensor | None,
    onto: Tensor | None,
    bits: int,
    rows: int,
    block: int,
) -> Tensor:
    return inputs.new_empty(inputs.shape[0], rows, dtype=torch.float32)


@torch.library.custom_op("octavo::sparse_product", mutates_args=())
def sparse_product(inputs: Tensor, starts: Tensor, numbers: Tensor, values: Tensor, onto: Tensor | None) -> Tensor:
    from octavo.kernels.triton import part_products

    return part_products.sparse_product(inputs, starts, numbers, values, onto)


@sparse_product.register_fake
def _(inputs: Tensor, starts: Tensor, numbers: Tensor, values: Tensor, onto: Tensor | None) -> Tensor:
    return inputs.new_empty(inputs.shape[0], starts.shape[0] - 1, dtype=torch.float32)


@torch.library.custom_op("octavo::zeros_product", mutates_args=())
def zeros_product(inputs: Tensor, numbers: Tensor, onto: Tensor | None, rows: int) -> Tensor:
    from octavo.kernels.triton import part_products

    return part_products.zeros_product(inputs, numbers, rows, onto)


@zeros_product.register_fake
def _(inputs: Tensor, numbers: Tensor, onto: Tensor | None, rows: int) -> Tensor:
    return inputs.new_empty(inputs.shape[0], rows, dtype=torch.float32)


@torch.library.custom_op("octavo::codes_rows", mutates_args=())
def codes_rows(
    packed: Tensor, values: Tensor, scales: Tensor, index: Tensor, rows: int, row_codes: int, count: int, block: int
) -> Tensor:
    from octavo.kernels.triton import codes_product as run

    return run.codes_rows(run.Codes(packed, values, scales, rows, count, row_codes, block), index)


@codes_rows.register_fake
def _(
    packed: Tensor, values: Tensor, scales: Tensor, index: Tensor, rows: int, row_codes: int, count: int, block: int
) -> Tensor:
    return values.new_empty(index.shape[0], count)


@torch.library.custom_op("octavo::grid_rows", mutates_args=())
def grid_rows(codes: Tensor, points: Tensor, row_step: Tensor, index: Tensor) -> Tensor:
    from octavo.kernels.triton import part_products

    return part_products.grid_rows(codes, points, row_step, index)


@grid_rows.register_fake
def _(codes: Tensor, points: Tensor, row_step: Tensor, index: Tensor) -> Tensor:
    return points.new_empty(index.shape[0], codes.shape[1])


@torch.library.custom_op("octavo::shift_rows", mutates_args=())
def shift_rows(codes: Tensor, table: Tensor, scales: Tensor, index: Tensor, bits: int, rows: int, block: int) -> Tensor:
    from octavo.kernels.triton import part_products

    return part_products.shift_rows(codes, table, bits, rows, scales, block, index)


@shift_rows.register_fake
def _(codes: Tensor, table: Tensor, scales: Tensor, index: Tensor, bits: int, rows: int, block: int) -> Tensor:
    return table.new_empty(index.shape[0], codes.shape[0])


@torch.library.custom_op("octavo::sparse_rows", mutates_args=())
def sparse_rows(starts: Tensor, numbers: Tensor, values: Tensor, index: Tensor, columns: int) -> Tensor:
    from octavo.kernels.triton import part_products

    return part_products.sparse_rows(starts, numbers, values, index, columns)


@sparse_rows.register_fake
def _(starts: Tensor, numbers: Tensor, values: Tensor, index: Tensor, columns: int) -> Tensor:
    return values.new_empty(index.shape[0], columns)
