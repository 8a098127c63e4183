"""Products with packed tensors are those with the dequantized ones, for every format, shape and number of threads."""

from __future__ import annotations

import copy
from functools import cache
from typing import Literal

import pytest
import torch
from format_rows import ENTROPY_CODED, FIXED_WIDTH
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from octavo.base.arithmetic import Arithmetic
from octavo.formats import Format
from octavo.formats.product import fused, product
from octavo.formats.resident import resident
from octavo.formats.tensor import QuantizedTensor
from octavo.kernels import cpu

# Of the sum of all magnitudes: some roundings of float32, in whatever order.
TOLERANCE = 1e-6
DTYPES = (torch.float32, torch.bfloat16)
# Rows beyond a tile and odd ones; columns that fill whole bytes, vectors and blocks, and such as do not.
SHAPES = ((70, 64), (1, 200), (131, 33), (9, 17))
Path = Literal["exact", "avx2", "portable"]
PATHS: tuple[Path, ...] = ("exact", "avx2", "portable") if not cpu.MISSING else ("exact",)

LEARNED = "glvq"
"""Elements of which a group takes seconds."""


@cache
def quantized_of(text: str, shape: tuple[int, int]) -> QuantizedTensor:
    """A normal matrix in a format, the same whenever it is asked for."""
    return Format.parse(text).quantize(torch.randn(shape, generator=torch.Generator().manual_seed(0)))


def shapes_of(text: str) -> tuple[tuple[int, int], ...]:
    return SHAPES[-1:] if text.startswith(LEARNED) else SHAPES


def check(quantized: QuantizedTensor, inputs: Tensor, path: Path = "exact") -> None:
    ready = fused(quantized)
    assert ready is not None
    matrix = quantized.dequantize().view(-1, quantized.shape[-1]).double()
    wide = inputs.double()
    bound = TOLERANCE * (wide.abs() @ matrix.abs().T) + 1e-30
    result = ready(inputs, path)
    assert result.dtype == torch.float32
    excess = (result - wide @ matrix.T).abs() - bound
    assert bool((excess <= 0).all()), f"{quantized.format} {quantized.shape}: {float(excess.max()):g} too much"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("text", FIXED_WIDTH)
def test_a_product_is_that_of_the_dense_weight(text: str, path: Path, generator: torch.Generator) -> None:
    for shape in shapes_of(text):
        quantized = quantized_of(text, shape)
        for batch, dtype in ((1, torch.float32), (3, torch.bfloat16), (16, torch.float32), (7, torch.bfloat16)):
            check(quantized, torch.randn(batch, shape[1], generator=generator).to(dtype), path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("text", ENTROPY_CODED)
@pytest.mark.parametrize("shape", [(70, 64), (131, 101), (40, 200)])
def test_so_is_that_of_a_resident_form(
    text: str, shape: tuple[int, int], path: Path, generator: torch.Generator
) -> None:
    weights = torch.randn(shape, generator=generator)
    # Columns of many widths, one of them of no bits, and weights apart.
    weights *= torch.logspace(0, -6, shape[1], base=2)
    weights[:, -1] = 0
    weights[0, -2] = 40
    quantized = resident(Format.parse(text).quantize(weights))
    for batch, dtype in ((1, torch.float32), (5, torch.bfloat16)):
        check(quantized, torch.randn(batch, shape[1], generator=generator).to(dtype), path)


@pytest.mark.skipif(bool(cpu.MISSING), reason=f"without C++: {cpu.MISSING}")
@pytest.mark.parametrize("text", FIXED_WIDTH)
def test_bytes_are_near_and_rows_are_those_of_the_matrix(text: str, generator: torch.Generator) -> None:
    for shape in shapes_of(text):
        quantized = quantized_of(text, shape)
        matrix, ready = quantized.dequantize().view(-1, shape[1]), fused(quantized)
        inputs = torch.randn(16, shape[1], generator=generator)
        assert ready is not None
        exact = ready(inputs)
        assert (ready(inputs, "int8") - exact).square().mean() <= 0.04**2 * exact.square().mean()
        index = torch.tensor([shape[0] - 1, 0])
        rows = ready.take(index)
        assert rows is not None
        assert torch.allclose(rows, matrix[index], rtol=1e-6, atol=0)
        dense = ready.dense(0, shape[0], torch.float32)
        assert dense is None or torch.allclose(dense, matrix, rtol=1e-6, atol=0)


def test_a_stream_is_dequantized(generator: torch.Generator) -> None:
    quantized = Format.parse("grid@3.0 separable ans").quantize(torch.randn(20, 24, generator=generator))
    inputs = torch.randn(3, 24, generator=generator)
    assert fused(quantized) is None
    assert torch.equal(product(quantized, inputs), inputs @ quantized.dequantize().T)


FUZZED = (
    "int@4 b{} absmax:bf16",
    "lloyd@3 b{} absmax:fp32",
    "lloyd@1 b{} absmean:bf16",
    "int(levels=3) b{} absmean:bf16",
    "cbrt-normal@2 b{} absmax:fp32",
    "cbrt-t(df=5)@5 b{} search:s8",
    "lloyd@6 b{} absmax:bf16",
    "int@7 b{} absmax:e5m2",
    "e4m3 b{} absmax:u8",
    "trellis(states=256)@3 b{} rms:u8",
    "columns(trellis(states=256)@4=5,int@8=3,lloyd@2) b{} absmax:bf16",
    "nf4 b{} absmax:e4m3 outliers=0.03",
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(FUZZED),
    st.integers(1, 140),
    st.integers(1, 300),
    st.integers(1, 150),
    st.integers(1, 17),
    st.data(),
)
def test_shapes_and_blocks(text: str, rows: int, columns: int, block: int, batch: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    block = data.draw(st.sampled_from((block, 8 * block, 64)))
    quantized = Format.parse(text.format(block)).quantize(torch.randn(rows, columns, generator=generator))
    dtype = data.draw(st.sampled_from(DTYPES))
    check(quantized, torch.randn(batch, columns, generator=generator).to(dtype), data.draw(st.sampled_from(PATHS)))


@pytest.mark.parametrize("text", ["int@4 b64 absmax:bf16", "trellis@3 channel rms:u8", "grid@3.0 separable ans"])
def test_threads_change_nothing(text: str, generator: torch.Generator) -> None:
    quantized = Format.parse(text).quantize(torch.randn(300, 256, generator=generator))
    ready = fused(resident(quantized))
    assert ready is not None
    inputs, before = torch.randn(4, 256, generator=generator), torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(ready(inputs))
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("arithmetic", ["exact", "int8"])
@pytest.mark.parametrize("format", ["int@1", "lloyd@2", "lloyd@3", "int@4", "int@8"])
@pytest.mark.parametrize("scales", ["b32 absmax:bf16", "b64 absmax:fp32", "channel rms:u8"])
def test_other_inputs_change_nothing(
    format: str, scales: str, arithmetic: Arithmetic, generator: torch.Generator
) -> None:
    for shape in ((150, 576), (40, 200), (33, 1100)):
        ready = fused(Format.parse(f"{format} {scales}").quantize(torch.randn(shape, generator=generator)))
        assert ready is not None
        inputs = torch.randn(37, shape[1], generator=generator)
        alone = torch.cat([ready(inputs[i : i + 1], arithmetic) for i in range(len(inputs))])
        for count in (2, 5, 7, 16, 37):
            assert torch.equal(ready(inputs[:count], arithmetic), alone[:count])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("text", ["int@4 b64 absmax:bf16", "trellis@3 channel rms:u8", "grid@3.0 separable ans"])
def test_a_number_that_is_not_finite_reaches_every_output(text: str, value: float, generator: torch.Generator) -> None:
    weights = torch.randn(66, 70, generator=generator)
    weights[:, 9] = 0
    quantized = Format.parse(text).quantize(weights)
    ready = fused(resident(quantized))
    assert ready is not None
    for column in (0, 9, 69):
        for dtype in DTYPES:
            inputs = torch.randn(2, 70, generator=generator).to(dtype)
            inputs[1, column] = value
            result = ready(inputs)
            assert bool(result[0].isfinite().all())
            assert not bool(result[1].isfinite().any())


def test_a_copy_and_a_pickle_multiply_alike(generator: torch.Generator) -> None:
    ready = fused(Format.parse("int@4 b64 absmax:bf16").quantize(torch.randn(5, 70, generator=generator)))
    assert ready is not None
    inputs = torch.randn(2, 70, generator=generator)
    assert torch.equal(copy.deepcopy(ready)(inputs), ready(inputs))
