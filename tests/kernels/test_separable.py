"""Grid codes with a row x column step: C++ against torch, and torch against arithmetic by hand."""

from __future__ import annotations

import pytest
import torch

from octavo import kernels
from octavo.kernels import cpu, reference


def test_a_code_is_multiplied_by_both_steps() -> None:
    codes = torch.tensor([[-3, 2], [0, 1]], dtype=torch.int8)
    values = kernels.separable_dequantize(codes, torch.tensor([0.5, 2.0]), torch.tensor([1.0, 4.0]))
    assert values.tolist() == [[-1.5, 4.0], [0.0, 8.0]]


def test_reconstruction_points_replace_the_codes_they_cover() -> None:
    codes = torch.tensor([[-2, -1, 0, 1, 2]], dtype=torch.int16)
    points = torch.tensor([-0.75, 0.0, 0.875])
    values = kernels.separable_dequantize(codes, torch.ones(1), torch.ones(5), points)
    assert values.tolist() == [[-2.0, -0.75, 0.0, 0.875, 2.0]]


@pytest.mark.skipif(bool(cpu.MISSING), reason=f"the C++ kernels are not built: {cpu.MISSING}")
@pytest.mark.parametrize("portable", [False, True], ids=["fastest", "portable"])
@pytest.mark.parametrize("out", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("dtype", "reach"), [(torch.int8, 128), (torch.int16, 32768)], ids=str)
@pytest.mark.parametrize("points", [0, 1, 7, 9, 15, 17, 301])
def test_cpp_agrees_bit_for_bit(
    points: int, dtype: torch.dtype, reach: int, out: torch.dtype, portable: bool, generator: torch.Generator
) -> None:
    codes = torch.randint(-reach, reach, (7, 517), generator=generator).to(dtype)
    codes[:, ::2] = torch.randint(-4, 5, (7, 259), generator=generator).to(dtype)
    rows, columns = torch.rand(7, generator=generator), torch.rand(517, generator=generator)
    table = torch.randn(points, generator=generator) if points else None
    expected = reference.separable_dequantize(codes, rows, columns, table, out)
    values = cpu.separable_dequantize(codes, rows, columns, table, out, portable)
    assert torch.equal(values.view(torch.int16), expected.view(torch.int16))
