"""Products with lattice codes: those of the dequantized matrix, row by row, whatever the back end."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from octavo.formats import parse
from octavo.formats.product import fused
from octavo.kernels import cpu
from octavo.kernels.columns import Columns
from octavo.kernels.lattice_parts import GroupedPart, VoronoiPart
from octavo.kernels.product import Product

FORMATS = (
    "lattice-d4@1 b64 absmean:bf16",
    "lattice-d4@3 b32 absmax:fp32",
    "lattice-d4@5 channel absmax:bf16",
    "lattice-e8@1 b64 absmean:bf16",
    "lattice-e8@2 channel absmax:bf16",
    "lattice-e8@3 tensor absmax:fp32",
    "lattice-e8@8 b64 absmax:u8",
)
needs_cpp = pytest.mark.skipif(bool(cpu.MISSING), reason="the C++ kernels are not built")


def quantized(format: str, rows: int, columns: int, seed: int) -> tuple[torch.Tensor, Product]:
    """The matrix that is stored, and its product."""
    weights = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    found = parse(format).quantize(weights)
    product = fused(found)
    assert product is not None
    assert isinstance(product.parts[0], VoronoiPart | GroupedPart)
    return found.dequantize(), product


def check(matrix: torch.Tensor, product: Product, batch: int, seed: int) -> None:
    rows, columns = matrix.shape
    inputs = torch.randn(batch, columns, generator=torch.Generator().manual_seed(seed + 1))
    expected = inputs @ matrix.T
    error = 1e-5 * float(inputs.abs().max() * matrix.abs().sum(1).max()) + 1e-30
    found = product(inputs)
    assert torch.allclose(found, expected, rtol=0, atol=error)
    assert torch.allclose(product(inputs, "portable"), expected, rtol=0, atol=error)
    # Of each input by itself the same, to the last bit.
    assert torch.equal(product(inputs[-1:]), found[-1:])
    for part in product.parts:
        assert torch.allclose(part.product(inputs, rows), expected, rtol=0, atol=error)
    index = torch.arange(rows).flip(0)
    taken = product.take(index)
    assert taken is not None
    assert torch.allclose(taken, matrix.flip(0), rtol=1e-5, atol=1e-6 * float(matrix.abs().max()) + 1e-30)


@needs_cpp
@settings(max_examples=40, deadline=None)
@given(
    format=st.sampled_from(FORMATS),
    rows=st.integers(1, 40),
    columns=st.integers(1, 200),
    batch=st.integers(1, 18),
    seed=st.integers(0, 1000),
)
def test_voronoi_products(format: str, rows: int, columns: int, batch: int, seed: int) -> None:
    check(*quantized(format, rows, columns, seed), batch, seed)


@needs_cpp
@settings(max_examples=30, deadline=None)
@given(
    dimension=st.sampled_from((8, 16, 32)),
    rows=st.integers(1, 40),
    columns=st.integers(1, 300),
    blocks=st.booleans(),
    batch=st.integers(1, 18),
    seed=st.integers(0, 1000),
)
def test_grouped_products(dimension: int, rows: int, columns: int, blocks: bool, batch: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    whole = -(-columns // dimension) * dimension
    sizes = [min(128, whole - start) for start in range(0, whole, 128)]
    widths = torch.randint(1, 9, (len(sizes),), generator=generator, dtype=torch.uint8)
    packed = sum(rows * size * bits // 8 for size, bits in zip(sizes, widths.tolist(), strict=True))
    block = 64 if blocks else columns
    part = GroupedPart(
        torch.randint(0, 256, (packed,), generator=generator, dtype=torch.uint8),
        128,
        widths,
        torch.randn(len(sizes), dimension, dimension, generator=generator) / 256,
        100 * torch.rand(len(sizes), generator=generator) + 1e-3,
        torch.rand(rows, -(-columns // block), generator=generator),
        block,
    )
    check(part.values(rows, columns), Product(rows, columns, [part]), batch, seed)


@needs_cpp
def test_a_learned_format_has_a_product_of_its_own() -> None:
    check(*quantized("glvq(d=8)@1 channel rms:u8", 4, 20, 0), 2, 0)


@needs_cpp
def test_columns_and_factors(generator: torch.Generator) -> None:
    matrix, product = quantized("lattice-e8@2 channel absmax:bf16", 9, 24, 0)
    (part,) = product.parts
    assert isinstance(part, VoronoiPart)
    numbers = torch.randperm(40, generator=generator)[:24].int()
    factors = torch.rand(24, generator=generator)
    code = part.packed, part.row_codes, part.size, part.basis, part.offset, part.listed, part.scales, part.block
    wide = Product(9, 40, [VoronoiPart(*code, Columns(numbers, factors))])
    inputs = torch.randn(2, 40, generator=generator)
    expected = inputs[:, numbers.long()] * factors @ matrix.T
    assert torch.allclose(wide(inputs), expected, atol=1e-4)


@needs_cpp
def test_sizes_that_do_not_fit_are_refused() -> None:
    native = cpu._extension()

    def voronoi(
        packed: int = 3 * 6,
        row_codes: int = 24,
        size: int = 4,
        d: int = 8,
        offset: int = 8,
        blocks: int = 1,
        listed: int | None = 1 << 16,
    ) -> None:
        points = None if listed is None else torch.zeros(listed, d)
        code = torch.zeros(d, d), torch.zeros(offset), points, torch.ones(3, blocks)
        raw = torch.zeros(packed, dtype=torch.uint8)
        native.Product(3, 20).add_voronoi(raw, row_codes, size, *code, 20, None, None)

    def grouped(
        packed: int = 3 * 12, group: int = 16, bits: tuple[int, ...] = (4, 4), d: int = 8, mus: int = 2
    ) -> None:
        widths, basis = torch.tensor(bits, dtype=torch.uint8), torch.zeros(len(bits), d, d)
        raw = torch.zeros(packed, dtype=torch.uint8)
        native.Product(3, 20).add_grouped(raw, group, widths, basis, torch.ones(mus), torch.ones(3, 1), 20, None, None)

    voronoi()
    voronoi(listed=None)
    grouped()
    for wrong in (
        lambda: voronoi(packed=17),
        lambda: voronoi(row_codes=16),
        lambda: voronoi(row_codes=21),
        lambda: voronoi(size=1),
        lambda: voronoi(d=4),
        lambda: voronoi(offset=4),
        lambda: voronoi(blocks=2),
        lambda: voronoi(listed=1 << 15),
        lambda: voronoi(packed=27, size=8),
        lambda: grouped(packed=35),
        lambda: grouped(group=0),
        lambda: grouped(group=12),
        lambda: grouped(bits=(4,)),
        lambda: grouped(bits=(9, 4)),
        lambda: grouped(bits=(0, 4)),
        lambda: grouped(d=4),
        lambda: grouped(mus=1),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            wrong()
