"""The ops for products, against their definition in torch, through every back end."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo import kernels
from octavo.base.errors import FormatError
from octavo.formats.elements.trellis import Trellis
from octavo.kernels import cpu, reference
from octavo.kernels import product as parts
from octavo.kernels.cpu import decoding as native

LEVELS = [2, 3, 4, 8, 11, 16, 17, 32, 64, 100, 128, 256]
SHAPES = [(67, 72, 64), (5, 200, 1000), (3, 77, 7), (33, 64, 2**62)]
PATHS = ("exact", "avx2", "portable") if not cpu.MISSING else ()
# Of the sum of all magnitudes: some roundings of float32, in whatever order.
TOLERANCE = 1e-6
needs_cpp = pytest.mark.skipif(bool(cpu.MISSING), reason=f"without C++: {cpu.MISSING}")
DTYPES = (torch.float32, torch.bfloat16)


def close(result: torch.Tensor, inputs: torch.Tensor, matrix: torch.Tensor) -> bool:
    wide, bound = inputs.double(), TOLERANCE * (inputs.double().abs() @ matrix.double().abs().T)
    return bool(((result - wide @ matrix.double().T).abs() <= bound + 1e-30).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("levels", LEVELS)
def test_linear(levels: int, dtype: torch.dtype, generator: torch.Generator) -> None:
    codebook = torch.randn(levels, generator=generator).sort().values
    for (rows, cols, block), batch in zip(SHAPES, (1, 3, 9, 2), strict=True):
        shared = levels % 3 == 0
        scales = torch.randn(1 if shared else rows, -(-cols // block), generator=generator)
        codes = torch.randint(0, levels, (rows * cols,), generator=generator, dtype=torch.uint8)
        arguments = reference.pack(codes, levels), scales, codebook, block
        inputs = torch.randn(batch, cols, generator=generator).to(dtype)
        matrix = reference.unpack_dequantize(*arguments, rows, cols, torch.float32)
        assert close(kernels.linear(inputs, *arguments, rows), inputs, matrix)
        assert close(reference.linear(inputs, *arguments, rows), inputs, matrix)
        for path in PATHS:
            assert close(cpu.linear(inputs, *arguments, rows, path), inputs, matrix)


def one_part(levels: int, rows: int, cols: int, block: int, generator: torch.Generator) -> parts.CodesPart:
    packed = torch.randint(0, 256, (-(-rows * cols * (levels - 1).bit_length() // 8),), generator=generator)
    scales = torch.rand(rows, -(-cols // block), generator=generator) + 0.5
    return parts.CodesPart(packed.byte(), cols, torch.randn(levels, generator=generator), scales, block)


@needs_cpp
@pytest.mark.parametrize("levels", [2, 4, 8, 16, 32, 64, 128, 256])
@pytest.mark.parametrize(("cols", "block"), [(576, 64), (200, 200), (1000, 40)])
def test_bytes_lose_what_rounding_loses(levels: int, cols: int, block: int, generator: torch.Generator) -> None:
    product = parts.Product(64, cols, [one_part(levels, 64, cols, block, generator)])
    inputs = torch.randn(16, cols, generator=generator)
    exact = product(inputs)
    error = (product(inputs, "int8") - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    # Inputs: a step of 1/127 of the largest of 64, which is about 2.4 of their deviations. Values: a step of at most
    # 1/64 of the largest, over their root mean square.
    values = product.parts[0].values  # pyright: ignore[reportAttributeAccessIssue]
    bound = math.hypot(2.4 / 127, float(values.abs().max() / values.square().mean().sqrt()) / 64) / math.sqrt(12)
    assert error <= 1.3 * bound


@needs_cpp
def test_bytes_are_exact_where_nothing_is_rounded(generator: torch.Generator) -> None:
    part = one_part(16, 40, 320, 32, generator)
    part = dataclasses.replace(part, values=torch.arange(-8.0, 8) / 8)
    inputs = torch.randint(-126, 127, (5, 320), generator=generator).float()
    inputs[:, ::32] = 127
    product = parts.Product(40, 320, [part])
    assert torch.allclose(product(inputs, "int8"), product(inputs), rtol=1e-5, atol=1e-3)


@needs_cpp
@given(st.integers(1, 40), st.integers(1, 1200), st.integers(1, 8), st.sampled_from([1, 7, 32, 64, 96]), st.data())
def test_products_do_not_depend_on_company(rows: int, columns: int, bits: int, block: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(rows + 100 * columns)
    batch, arithmetic = data.draw(st.integers(2, 35)), data.draw(st.sampled_from(["exact", "avx2", "int8", "portable"]))
    product = parts.Product(rows, columns, [one_part(2**bits, rows, columns, block, generator)])
    inputs = torch.randn(batch, columns, generator=generator)
    together = product(inputs, arithmetic)
    assert all(torch.equal(together[i : i + 1], product(inputs[i : i + 1], arithmetic)) for i in range(batch))


@needs_cpp
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_bytes_pass_on_what_is_not_finite(bad: float, generator: torch.Generator) -> None:
    product = parts.Product(20, 96, [one_part(16, 20, 96, 32, generator)])
    inputs = torch.randn(3, 96, generator=generator)
    inputs[1, 40] = bad
    assert product(inputs, "int8").isnan().any(1).tolist() == [False, True, False]
    inputs[1] = 1e-38
    assert product(inputs, "int8")[1].abs().max() < 1e-30
    assert not product(torch.zeros(1, 96), "int8").any()


@needs_cpp
def test_values_that_are_not_finite_stay_exact(generator: torch.Generator) -> None:
    part = one_part(4, 8, 32, 32, generator)
    part = dataclasses.replace(part, values=torch.tensor([0.0, 1.0, torch.nan, 2.0]))
    product = parts.Product(8, 32, [part])
    inputs = torch.randn(2, 32, generator=generator)
    assert torch.equal(product(inputs, "int8").isnan(), product(inputs).isnan())


@needs_cpp
@pytest.mark.parametrize("bits", range(1, 7))
@pytest.mark.parametrize(("rows", "columns", "block"), [(67, 70, 70), (300, 1100, 64), (64, 32, 7)])
def test_trellises_in_bytes(rows: int, columns: int, block: int, bits: int, generator: torch.Generator) -> None:
    codes = torch.randint(0, 256, (columns, (rows * bits + 7) // 8), generator=generator, dtype=torch.uint8)
    trellis = Trellis(4096, bits)
    curve = torch.linspace(-4, 4, 17) + torch.rand(17, generator=generator) / 4
    scales = torch.rand(rows, -(-columns // block), generator=generator) + 0.5
    factors = parts.Columns(None, torch.rand(columns, generator=generator) + 0.5)
    product = parts.Product(
        rows, columns, [parts.ShiftPart(codes, trellis.places, curve, bits, scales, block, factors)]
    )
    inputs = torch.randn(7, columns, generator=generator)
    exact, found = product(inputs), product(inputs, "int8")
    # Steps of bytes are 4.25 / 127 of a deviation and means of 16 neighbors about as much, inputs as above.
    assert (found - exact).square().mean().sqrt() <= 0.02 * exact.square().mean().sqrt()
    assert torch.equal(product(inputs[2:3], "int8"), found[2:3])
    if bits > 5:
        assert torch.equal(found, exact)
    taken = product.take(torch.arange(rows))
    assert taken is not None
    assert torch.allclose(inputs @ taken.T, exact, atol=1e-3)


@needs_cpp
def test_products_between_buffers(generator: torch.Generator) -> None:
    products = [
        parts.Product(rows, 64, [one_part(levels, rows, 64, 32, generator)]) for levels, rows in ((16, 24), (2, 17))
    ]
    inputs, outputs = torch.randn(5, 64, generator=generator), torch.zeros(5, 41)
    bias = torch.randn(41, generator=generator)
    for arithmetic in ("exact", "int8"):
        run = parts.between(products, inputs, outputs, bias, arithmetic)
        run(3)
        alone = torch.cat([product(inputs[:3], arithmetic) for product in products], dim=1)
        assert torch.allclose(outputs[:3], alone + bias, atol=1e-5)
        assert not outputs[3:].any()
    with pytest.raises(ValueError, match="not so many rows"):
        run(6)
    with pytest.raises(ValueError, match="the output does not fit"):
        parts.between(products[:1], inputs, outputs, None, "exact")


@needs_cpp
@pytest.mark.parametrize("arithmetic", ["exact", "int8", "avx2", "portable"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("halves", "levels"), [((32,), 16), ((16, 16), 2), ((1600,), 4), ((816, 816), 8), ((2720,), 16)]
)
def test_gates_are_those_of_the_products(
    halves: tuple[int, ...], levels: int, bias: bool, arithmetic: Any, generator: torch.Generator
) -> None:
    matrices = [one_part(levels, rows, 64, 32, generator) for rows in halves]
    products = [parts.Product(rows, 64, [part]) for rows, part in zip(halves, matrices, strict=True)]
    rows = sum(halves)
    inputs, found = torch.randn(70, 64, generator=generator), torch.zeros(70, rows)
    added = torch.randn(rows, generator=generator) if bias else None
    outputs = torch.full((70, rows // 2), 7.0)
    run = parts.gated(products, inputs, outputs, added, arithmetic)
    assert run is not None
    for batch in (1, 5, 70):
        parts.between(products, inputs, found, added, arithmetic)(batch)
        native.gate(found, expected := torch.zeros_like(outputs), arithmetic == "portable")(batch)
        run(batch)
        assert torch.equal(outputs[:batch], expected[:batch])
        assert outputs[batch:].eq(7).all()


@needs_cpp
def test_gates_want_halves_alike(generator: torch.Generator) -> None:
    def product(rows: int) -> parts.Product:
        return parts.Product(rows, 64, [one_part(4, rows, 64, 32, generator)])

    inputs = torch.zeros(2, 64)
    for products in ([product(40)], [product(32), product(64)], [product(16)] * 4):
        half = sum(each.rows for each in products) // 2
        assert parts.gated(products, inputs, torch.zeros(2, half), None, "exact") is None
        with pytest.raises(ValueError, match="gates want"):
            cpu.bound_products([each._native for each in products], inputs, torch.zeros(2, half), None, "exact", True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("states", "bits"), [(256, 1), (256, 4), (1024, 5), (4096, 3), (4096, 6), (16384, 2)])
def test_shift_linear(states: int, bits: int, dtype: torch.dtype, generator: torch.Generator) -> None:
    table = torch.randn(states, generator=generator)
    for (rows, columns, block), batch in zip(((67, 9, 4), (1, 5, 5), (300, 2, 2**62)), (1, 3, 9), strict=True):
        codes = torch.randint(0, 256, (columns, (rows * bits + 7) // 8 + 1), generator=generator, dtype=torch.uint8)
        scales = torch.randn(rows, -(-columns // block), generator=generator)
        factors = rows, scales, block, torch.randn(columns, generator=generator)
        inputs = torch.randn(batch, columns, generator=generator).to(dtype)
        matrix = reference.shift_decode(codes, table, bits, *factors)
        assert close(kernels.shift_linear(inputs, codes, table, bits, *factors), inputs, matrix)
        assert close(reference.shift_linear(inputs, codes, table, bits, *factors), inputs, matrix)
        for path in PATHS:
            assert close(cpu.shift_linear(inputs, codes, table, bits, *factors, path), inputs, matrix)


def test_plain_torch_multiplies_every_part_alike(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, count, columns = 20, 9, 12
    numbers = torch.randint(0, columns, (count,), generator=generator, dtype=torch.int32)
    taken = parts.Columns(numbers, torch.randn(count, generator=generator))
    scales = torch.randn(rows, 3, generator=generator)
    packed = torch.randint(0, 256, (rows * 6,), generator=generator, dtype=torch.uint8)
    streams = torch.randint(0, 256, (count, 10), generator=generator, dtype=torch.uint8)
    places, curve = torch.rand(4096, generator=generator) * 16, torch.randn(17, generator=generator)
    grid = torch.randint(-300, 300, (rows, count), generator=generator).to(torch.int16)
    starts = torch.arange(rows + 1) // 2
    product = parts.Product(
        rows,
        columns,
        [
            parts.CodesPart(packed, 12, torch.randn(16, generator=generator), scales.bfloat16(), 3, taken),
            parts.ShiftPart(streams, places, curve, 4, scales[:, :1].contiguous(), count, taken),
            parts.GridPart(grid, torch.tensor([-0.9, 0.0, 0.9]), scales[:, 1].contiguous(), taken),
            parts.SparsePart(starts, torch.arange(10, dtype=torch.int32), torch.randn(10, generator=generator)),
            parts.ZerosPart(torch.tensor([3], dtype=torch.int32)),
        ],
    )
    inputs = torch.randn(3, columns, generator=generator)
    fast = [product(inputs, path) for path in PATHS]
    if PATHS:
        rows_read = product.take(torch.tensor([19, 0, 7]))
        assert rows_read is not None
        assert torch.allclose(inputs @ rows_read.T, fast[0][:, [19, 0, 7]], rtol=1e-4, atol=1e-2)
        with pytest.raises(FormatError, match="no such row"):
            product.take(torch.tensor([20]))
    monkeypatch.setattr(cpu, "MISSING", "no compiler at installation")
    plain = product(inputs)
    assert all(torch.allclose(found, plain, rtol=1e-4, atol=1e-2) for found in fast)
    inputs[1, 3] = torch.nan
    assert product(inputs).isnan().any(1).tolist() == [False, True, False]


def test_parts_that_do_not_fit_never_reach_a_gpu(generator: torch.Generator) -> None:
    part = one_part(16, 4, 32, 16, generator)
    part.ready(4, 32)
    outside = torch.full((3,), 32, dtype=torch.int32)
    streams, table = torch.zeros(32, 1, dtype=torch.uint8), (torch.zeros(256), torch.zeros(17))
    shift = parts.ShiftPart(streams, *table, 2, torch.ones(4, 1), 32, parts.Columns())
    shift.ready(4, 32)
    starts = torch.tensor([0, 1, 1, 2, 3])
    sparse = parts.SparsePart(starts, outside - 1, torch.ones(3))
    sparse.ready(4, 32)
    grid = parts.GridPart(torch.zeros(4, 32, dtype=torch.int16), torch.zeros(3), torch.ones(4), parts.Columns())
    grid.ready(4, 32)
    for bad, what in (
        (dataclasses.replace(part, packed=part.packed[1:]), "codes"),
        (dataclasses.replace(part, scales=part.scales[1:]), "scales"),
        (dataclasses.replace(part, block=0), "scales"),
        (dataclasses.replace(part, row_codes=31), "rows of codes"),
        (dataclasses.replace(part, columns=parts.Columns(outside)), "columns"),
        (dataclasses.replace(part, columns=parts.Columns(None, torch.ones(3))), "columns"),
        (dataclasses.replace(shift, places=table[0] - 1), "values"),
        (dataclasses.replace(shift, codes=streams[:, :0]), "streams"),
        (dataclasses.replace(shift, scales=torch.ones(4, 2)), "scales"),
        (dataclasses.replace(sparse, numbers=outside), "single weights"),
        (dataclasses.replace(sparse, starts=starts.flip(0)), "rows of single weights"),
        (dataclasses.replace(sparse, starts=starts[:4]), "rows of single weights"),
        (dataclasses.replace(grid, columns=parts.Columns(outside)), "columns"),
        (dataclasses.replace(grid, codes=grid.codes[:, 1:]), "grid codes"),
        (dataclasses.replace(grid, points=torch.zeros(4)), "points"),
        (parts.ZerosPart(outside), "columns of zeros"),
    ):
        with pytest.raises(FormatError, match=f"^{what} of a packed matrix"):
            bad.ready(4, 32)
