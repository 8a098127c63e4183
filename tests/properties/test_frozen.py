"""Formats whose codebooks stay while weights learn: what training sees is what is stored, bit for bit."""

from __future__ import annotations

import pytest
import torch
from format_rows import ENTROPY_CODED, FIXED_WIDTH
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import octavo
from octavo.base.errors import FormatError
from octavo.formats import Importance
from octavo.formats.frozen import FrozenCodebook, FrozenMicroscaling, FrozenParts, Settling, freeze, freeze_parts
from octavo.formats.microscaling import MICROSCALING
from octavo.layers.fake_quantized import FakeQuantizedLinear, fake_quantize
from octavo.measure.rate_distortion import relative_error

SLOW = ("glvq(d=8)@3", "glvq(d=16)", "glvq(d=8,widths=unequal)")
"""Lattices that take seconds to learn; one of them runs."""

ROWS = [row for row in FIXED_WIDTH + ENTROPY_CODED if not row.startswith(SLOW)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def importance_for(text: str, rows: int, columns: int) -> Importance | None:
    return Importance(torch.ones(rows), torch.ones(columns)) if "separable" in text else None


@pytest.mark.parametrize("text", ROWS)
def test_training_sees_what_quantizing_gives_and_what_is_stored(text: str) -> None:
    format, weights = octavo.parse(text), normal(40, 130) * 0.02
    known = importance_for(text, 40, 130)
    frozen = freeze(format, weights, known)
    assert frozen.format == format
    values = frozen.values(weights)
    assert torch.equal(values, format.fake_quantize(weights, known))
    for later in (weights, weights + 0.3 * normal(40, 130, seed=1) * 0.02):
        assert torch.equal(frozen.values(later), frozen.quantize(later).dequantize())


@pytest.mark.parametrize("text", ROWS)
def test_gradient_goes_straight_through(text: str) -> None:
    dtype = torch.bfloat16 if "bf16" in text else torch.float32
    weights = (normal(24, 130) * 0.02).to(dtype).requires_grad_()
    frozen = freeze(octavo.parse(text), weights, importance_for(text, 24, 130))
    upstream = normal(24, 130, seed=2).to(dtype)
    quantized = fake_quantize(weights, frozen)
    assert quantized.dtype == dtype
    (found,) = torch.autograd.grad((upstream * quantized).sum(), weights)
    assert torch.equal(found, upstream)


def test_a_layer_is_any_other_until_it_is_given_a_format() -> None:
    layer, inputs = FakeQuantizedLinear(130, 24, bias=True), normal(5, 130)
    layer.load_state_dict({"weight": normal(24, 130), "bias": normal(24, seed=1)})
    assert torch.equal(layer(inputs), torch.nn.functional.linear(inputs, layer.weight, layer.bias))
    layer.frozen = freeze(octavo.parse("lloyd@1 b64 absmean:bf16"), layer.weight)
    expected = layer.frozen.quantize(layer.weight).dequantize()
    assert torch.equal(layer(inputs), torch.nn.functional.linear(inputs, expected, layer.bias))
    (found,) = torch.autograd.grad(layer(inputs).sum(), layer.weight)
    torch.testing.assert_close(found, inputs.sum(0).expand(24, -1))


@pytest.mark.parametrize("text", [row for row in FIXED_WIDTH if "search" not in row and "glvq" not in row])
def test_only_codebooks_stay(text: str) -> None:
    format, weights = octavo.parse(text), normal(40, 130) * 0.02
    frozen = freeze(format, weights)
    if isinstance(frozen, Settling):
        return
    doubled = frozen.quantize(2 * weights)
    before = frozen.quantize(weights)
    assert torch.equal(doubled.parts["codes"], before.parts["codes"])
    assert torch.equal(doubled.dequantize(), 2 * before.dequantize())
    if "codebook" in before.parts:
        moved = weights + normal(40, 130, seed=1) * 0.02
        assert torch.equal(frozen.quantize(moved).parts["codebook"], before.parts["codebook"])


@pytest.mark.parametrize("name", MICROSCALING)
@given(
    exponent=st.integers(-145, 100),
    spread=st.integers(0, 12),
    step=st.sampled_from([0.0, 0.125, 0.5]),
    columns=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_microscaled_values_have_the_bits_of_the_file(
    name: str, exponent: int, spread: int, step: float, columns: int, seed: int
) -> None:
    """Ties, zeros of both signs, subnormal weights and blocks of zeros included."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(5, columns, generator=generator)
    if step:
        weights = (weights / step).round() * step
    powers = torch.randint(-spread, spread + 1, weights.shape, generator=generator)
    weights = weights * torch.ldexp(torch.tensor(1.0), powers.float()) * 2.0 ** (exponent / 2) * 2.0 ** (exponent / 2)
    weights[0], weights[1, : columns // 2] = 0.0, -0.0
    frozen = freeze(octavo.parse(name), weights)
    assert isinstance(frozen, FrozenMicroscaling)
    stored = frozen.quantize(weights).dequantize()
    assert torch.equal(frozen.values(weights).view(torch.int32), stored.view(torch.int32))


@pytest.mark.parametrize("name", MICROSCALING)
def test_a_weight_that_is_no_number_is_seen_in_the_values(name: str) -> None:
    frozen, weights = freeze(octavo.parse(name), normal(2, 40)), normal(2, 40)
    weights[1, 35] = torch.nan
    assert frozen.values(weights)[1, 35].isnan()


@given(
    bits=st.integers(1, 5),
    statistic=st.sampled_from(["absmax", "absmean", "rms", "signmax"]),
    scale=st.sampled_from(["bf16", "fp32", "e4m3"]),
    columns=st.integers(1, 200),
    seed=st.integers(0, 9),
)
def test_each_block_takes_few_values(bits: int, statistic: str, scale: str, columns: int, seed: int) -> None:
    format = octavo.parse(f"lloyd@{bits} b64 {statistic}:{scale}")
    weights = normal(3, columns, seed=seed)
    frozen = freeze(format, weights)
    values = frozen.values(weights + 0.1)
    assert all(len(block.unique()) <= 2**bits for row in values for block in row.split(64))


@pytest.mark.parametrize("rows", [1, 5000])
def test_large_matrices_take_the_same_way(rows: int) -> None:
    """Statistics are taken of groups of rows; no result may depend on the groups."""
    weights = normal(rows, 100)
    for text in ("lloyd@1 b64 absmean:bf16", "int@4 b64 absmax:bf16", "lloyd@3 tensor rms:fp32"):
        format = octavo.parse(text)
        assert torch.equal(freeze(format, weights).values(weights), format.fake_quantize(weights))


def test_a_weighted_fit_follows_its_weights() -> None:
    weights = torch.cat([normal(64, 64) * 0.1 - 1, normal(64, 64, seed=1) * 0.1 + 1, normal(64, 64, seed=2)])
    format = octavo.parse("lloyd@1 tensor rms:fp32")
    mass = torch.full_like(weights, 1e-6)
    mass[:64] = 1.0
    plain, weighted = freeze(format, weights), freeze(format, weights, mass=mass)
    assert isinstance(plain, FrozenCodebook)
    errors = [(frozen.values(weights) - weights)[:64].norm() for frozen in (plain, weighted)]
    assert errors[1] < 0.7 * errors[0]
    with pytest.raises(FormatError, match="no codebook that stays"):
        freeze(octavo.parse("lloyd@2 b64 search:s8"), weights, mass=mass)


@pytest.mark.parametrize("text", [row for row in FIXED_WIDTH if not row.startswith(SLOW)])
def test_parts_that_stay_give_the_tensor_back(text: str) -> None:
    format, weights = octavo.parse(text), normal(40, 130) * 0.02
    quantized = format.quantize(weights)
    if any(name in text for name in ("trellis", "lattice", "glvq")):
        with pytest.raises(FormatError, match="cannot follow"):
            freeze_parts(quantized)
        return
    frozen = freeze_parts(quantized)
    assert isinstance(frozen, FrozenParts)
    again = frozen.quantize(weights)
    assert all(torch.equal(again.parts[name].float(), part.float()) for name, part in quantized.parts.items())
    moved = frozen.quantize(weights + 0.01 * normal(40, 130, seed=1))
    assert torch.equal(moved.dequantize(), frozen.values(weights + 0.01 * normal(40, 130, seed=1)))
    kept = [name for name in quantized.parts if "codes" not in name and name != "outlier_value"]
    assert all(torch.equal(moved.parts[name].float(), quantized.parts[name].float()) for name in kept)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lloyd@1 b64 absmean:bf16", 0.598),
        ("lloyd@1 b64 absmax:bf16", 0.611),
        ("lloyd@1 tensor absmean:fp32", 0.6028),
        ("lloyd@2 b64 absmax:bf16", 0.344),
        ("lloyd@2 b64 absmean:bf16", 0.341),
        ("int(levels=3) b64 absmax:bf16", 0.718),
        ("int(levels=3) b64 absmean:bf16", 0.509),
        ("lloyd@3 b64 absmax:bf16", 0.178),
        ("lloyd@3 b64 absmean:bf16", 0.185),
        ("int(levels=7) b64 absmax:bf16", 0.251),
        ("lloyd@4 b64 absmax:bf16", 0.0874),
        ("lloyd@4 b64 absmean:bf16", 0.0973),
        ("int(levels=15) b64 absmax:bf16", 0.108),
    ],
)
def test_errors_on_normal_weights_are_the_published_ones(text: str, expected: float) -> None:
    """Fitted where training starts and then frozen; the centroids of one bit are the signs."""
    weights = normal(1024, 512)
    frozen = freeze(octavo.parse(text), weights)
    assert relative_error(weights, frozen.values(weights)) ** 0.5 == pytest.approx(expected, rel=0.012)
    if text == "lloyd@1 b64 absmean:bf16":
        assert isinstance(frozen, FrozenCodebook)
        assert frozen.codebook.tolist() == pytest.approx([-1, 1], abs=0.02)
