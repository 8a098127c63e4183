"""The ops for products, against their definition in torch, through every back end."""

from __future__ import annotations

import pytest
import torch

from octavo import kernels
from octavo.kernels import cpu, reference
from octavo.kernels import product as parts

LEVELS = [2, 3, 4, 8, 11, 16, 17, 32, 64, 100, 128, 256]
SHAPES = [(67, 72, 64), (5, 200, 1000), (3, 77, 7), (33, 64, 2**62)]
PATHS = (False, True) if not cpu.MISSING else ()
# Of the sum of all magnitudes: some roundings of float32, in whatever order.
TOLERANCE = 1e-6
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
        for portable in PATHS:
            assert close(cpu.linear(inputs, *arguments, rows, portable), inputs, matrix)


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
        for portable in PATHS:
            assert close(cpu.shift_linear(inputs, codes, table, bits, *factors, portable), inputs, matrix)


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
    fast = [product(inputs, portable) for portable in PATHS]
    monkeypatch.setattr(cpu, "MISSING", "no compiler at installation")
    plain = product(inputs)
    assert all(torch.allclose(found, plain, rtol=1e-4, atol=1e-2) for found in fast)
    inputs[1, 3] = torch.nan
    assert product(inputs).isnan().any(1).tolist() == [False, True, False]
