"""Quantized tensors as functions of their continuous parts: derivatives, and what comes back after storing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from format_rows import ENTROPY_CODED, FIXED_WIDTH
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from octavo.formats import QuantizedTensor, parse
from octavo.formats.entropy_coded import decoded
from octavo.formats.grid_resident import widened
from octavo.formats.tuning import Tunable, tunable

CPU = torch.device("cpu")
GRID = "grid(step=0.004,states=8) separable ans"
UNTOUCHED = ("codes", "group", "outlier")
"""How the names of parts begin that tuning has no business with."""
NOTHING = tuple(text for text in FIXED_WIDTH if text.startswith(("mx", "lattice", "glvq")) or ":e8m0" in text)
"""Scales that are powers of two have neighbors a factor of two away, and these formats nothing else; lattices are left
as they are."""
TUNABLE = tuple(text for text in FIXED_WIDTH + ENTROPY_CODED if text not in NOTHING)


def quantized(text: str, rows: int = 6, columns: int = 130) -> QuantizedTensor:
    draws = np.random.default_rng(rows + columns).standard_t(5, (rows, columns))
    return parse(text).quantize(torch.from_numpy(draws * 0.02).float())


def function(text: str, rows: int = 6, columns: int = 130) -> Tunable:
    found = tunable(quantized(text, rows, columns), CPU)
    assert found is not None
    return found


def moved(tuned: Tunable, size: float, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: size * torch.randn(shape, generator=generator, dtype=dtype) for name, shape in tuned.sizes.items()}


def codes(tensor: QuantizedTensor) -> Tensor:
    """What a stream says apart from steps and points."""
    parts = decoded(tensor).parts
    return widened(parts) if "place" in parts else parts["codes"]


@pytest.mark.parametrize("text", NOTHING)
def test_formats_with_nothing_continuous_have_nothing_to_tune(text: str) -> None:
    assert tunable(quantized(text), CPU) is None


@pytest.mark.parametrize("text", TUNABLE)
def test_without_deviations_it_is_the_stored_tensor(text: str) -> None:
    tensor, tuned = quantized(text), function(text)
    zeros = {name: torch.zeros(size) for name, size in tuned.sizes.items()}
    # Places on a trellis's curve are float32 between its knots.
    torch.testing.assert_close(tuned.values(zeros), tensor.dequantize(), rtol=1e-6, atol=1e-7)
    again = tuned.stored(zeros)
    assert again.format == tensor.format
    assert again.parts.keys() == tensor.parts.keys()
    for name, part in tensor.parts.items():
        assert torch.equal(again.parts[name].view(torch.uint8), part.view(torch.uint8)), name


@pytest.mark.parametrize("text", TUNABLE)
def test_derivatives_are_those_of_finite_differences(text: str) -> None:
    tuned = function(text, 12 if "grid" in text else 3, 70)
    start = moved(tuned, 0.05, torch.float64)
    names = list(start)

    def values(*parameters: Tensor) -> Tensor:
        # What is no parameter is float32; scaled up, its rounding does not drown the differences.
        return 1e2 * tuned.values(dict(zip(names, parameters, strict=True))).double()

    parameters = [parameter.requires_grad_() for parameter in start.values()]
    assert values(*parameters).dtype == torch.float64
    torch.autograd.gradcheck(values, parameters, eps=1e-4, atol=1e-5, rtol=1e-3, fast_mode=True)


@pytest.mark.parametrize("text", TUNABLE)
def test_storing_keeps_codes_sizes_and_dtypes_and_rounds_the_rest(text: str) -> None:
    tensor, tuned = quantized(text), function(text)
    deviations = moved(tuned, 0.1)
    stored = tuned.stored(deviations)
    assert stored.stored_bits == tensor.stored_bits
    for name, part in tensor.parts.items():
        again = stored.parts[name]
        assert (again.dtype, again.shape) == (part.dtype, part.shape)
        if name.startswith(UNTOUCHED):
            assert torch.equal(again, part)
    if "coded" in tensor.parts:
        assert torch.equal(codes(stored), codes(tensor))
    wanted, found, before = tuned.values(deviations), stored.dequantize(), tensor.dequantize()
    assert float((found - wanted).norm()) < 0.6 * float((before - wanted).norm())


@pytest.mark.parametrize(
    "text", [text for text in TUNABLE if "codebook" in function(text).sizes and not text.startswith("trellis")]
)
def test_values_of_a_codebook_never_pass_each_other(text: str) -> None:
    tuned = function(text)
    stored = tuned.stored(moved(tuned, 3.0))
    assert bool((stored.parts["codebook"].diff() >= 0).all())
    assert stored.dequantize().isfinite().all()


@pytest.mark.parametrize("scale", ["fp32", "bf16", "fp16", "u8", "s8"])
@pytest.mark.parametrize("distance", [-300.0, 300.0])
def test_scales_saturate(scale: str, distance: float) -> None:
    tuned = function(f"int@4 b32 absmax:{scale}")
    stored = tuned.stored({"scales": torch.full(tuned.sizes["scales"], distance)})
    assert stored.parts["scales"].float().isfinite().all()


@given(
    st.integers(1, 5), st.integers(1, 200), st.sampled_from([GRID, "int@4 b64 absmax:bf16", "sf4 channel absmax:u8"])
)
def test_any_shape(rows: int, columns: int, text: str) -> None:
    tensor = quantized(text, rows, columns)
    tuned = tunable(tensor, CPU)
    assert tuned is not None
    zeros = {name: torch.zeros(size) for name, size in tuned.sizes.items()}
    torch.testing.assert_close(tuned.values(zeros), tensor.dequantize(), rtol=1e-6, atol=0)


def test_grids_with_wide_columns_and_rows() -> None:
    """In memory, indices beyond a byte are wide columns of their own or kept apart."""
    for axis in (0, 1):
        draws = torch.from_numpy(np.random.default_rng(0).standard_normal((64, 64))).float()
        draws.select(axis, 3).mul_(300)
        tensor = parse("grid(step=1.0,states=8) separable ans").quantize(draws)
        parts = decoded(tensor).parts
        assert "codes_16" in parts if axis else len(parts["far_row"])
        tuned = tunable(tensor, CPU)
        assert tuned is not None
        zeros = {name: torch.zeros(size) for name, size in tuned.sizes.items()}
        torch.testing.assert_close(tuned.values(zeros), tensor.dequantize(), rtol=1e-6, atol=0)
