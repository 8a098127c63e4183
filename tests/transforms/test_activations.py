"""Rounding on the fly gives what the format gives, for every format and rule, and gradients that know about scales."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.base.errors import FormatError
from octavo.formats import parse
from octavo.formats.microscaling import MICROSCALING
from octavo.transforms.activations import SCALE_RULES, activation_format, fake_quantize, round_elements

NAMES = [name for name, element in MICROSCALING.items() if not element.two_level]
NO_CLIP = {
    "mxfp4": "e2m1 b32 absmax:e8m0",
    "mxfp6-e2m3": "e2m3 b32 absmax:e8m0",
    "mxfp8-e4m3": "e4m3 b32 absmax:e8m0",
    "mxint4": "int(levels=15) b32 absmax:e8m0",
}


def wild(*shape: int, seed: int = 0) -> torch.Tensor:
    """Numbers of every size, ties and zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator) * torch.exp(4 * torch.randn(shape, generator=generator))
    values[0] = (values[0] * 4).round() / 4
    values[1, :32] = 0
    values[2] *= 1e-37
    values[3] *= 1e30
    return values


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("columns", [7, 32, 100])
def test_it_is_the_format_s_own_rounding(name: str, columns: int) -> None:
    values = wild(40, columns, seed=columns)
    assert torch.equal(fake_quantize(values, activation_format(name)), parse(name).fake_quantize(values))


@pytest.mark.parametrize("name", NO_CLIP)
def test_the_rule_that_clips_nothing_is_that_of_block_formats(name: str, generator: torch.Generator) -> None:
    values = torch.randn(64, 96, generator=generator) * torch.exp(torch.randn(64, 1, generator=generator))
    found = fake_quantize(values, activation_format(name), "ceil")
    assert torch.equal(found, parse(NO_CLIP[name]).fake_quantize(values))
    assert (found.abs().amax(1) <= 2 * values.abs().amax(1)).all()


@pytest.mark.parametrize("name", NAMES)
def test_elements_stay_what_they_are(name: str) -> None:
    element = activation_format(name)
    values = element.codebook("absmax", None)
    assert torch.equal(round_elements(values, element), values)
    assert set(round_elements(torch.linspace(-1e4, 1e4, 9999), element).tolist()) <= set(values.tolist())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rule", SCALE_RULES)
@given(seed=st.integers(0, 1000), power=st.integers(-20, 20))
def test_it_is_idempotent_and_knows_no_unit(name: str, rule: str, seed: int, power: int) -> None:
    values = torch.randn(3, 64, generator=torch.Generator().manual_seed(seed))
    element = activation_format(name)
    rounded = fake_quantize(values, element, rule)
    assert torch.equal(fake_quantize(rounded, element, rule), rounded)
    assert torch.equal(fake_quantize(values * 2.0**power, element, rule), rounded * 2.0**power)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_dtypes_hold_the_values_exactly(dtype: torch.dtype, generator: torch.Generator) -> None:
    values = torch.randn(2, 5, 64, generator=generator).to(dtype)
    for name in NAMES:
        found = fake_quantize(values, activation_format(name))
        assert found.dtype == dtype
        assert torch.equal(found.float(), fake_quantize(values.float(), activation_format(name)))


@pytest.mark.parametrize(
    ("name", "rule", "expected"),
    [
        ("mxfp4", "floor", (0.1178, 0.1151, 0.1132)),
        ("mxfp4", "ceil", (0.1129, 0.1155, 0.1192)),
        ("mxint4", "floor", (0.1171, 0.1325, 0.1425)),
        ("mxint4", "ceil", (0.1313, 0.1439, 0.1504)),
    ],
)
def test_relative_error_of_normal_numbers(name: str, rule: str, expected: tuple[float, ...]) -> None:
    values = torch.randn(1 << 14, 64, generator=torch.Generator().manual_seed(0))
    for block, error in zip((16, 32, 64), expected, strict=True):
        element = type(activation_format(name))(name, *_element(name), block=block) if block != 16 else None
        if element is None:
            # Sixteen names the two-level format; the rest of a block of thirty-two may be empty instead.
            padded = torch.nn.functional.pad(values.view(-1, 16), (0, 16))
            found = fake_quantize(padded, activation_format(name), rule)[:, :16].reshape(values.shape)
        else:
            found = fake_quantize(values, element, rule)
        assert float((found - values).norm() / values.norm()) == pytest.approx(error, rel=0.01), block


def _element(name: str) -> tuple[int, int]:
    element = activation_format(name)
    return element.exponent, element.mantissa


def test_what_is_not_finite_is_not_hidden() -> None:
    values = torch.ones(1, 96)
    values[0, 3], values[0, 40] = torch.inf, torch.nan
    found = fake_quantize(values, activation_format("mxfp4"))
    assert found[0, :64].isnan().all()
    assert torch.equal(found[0, 64:], torch.ones(32))


def test_formats_that_need_the_whole_tensor_are_refused() -> None:
    for name in ("nvfp4", "int@4", "mxfp5"):
        with pytest.raises(FormatError, match="choose one of mxfp4"):
            activation_format(name)


def test_gradients_pass_through_elements_and_scales(generator: torch.Generator) -> None:
    """dq = dx + (q - x) d(max)/max in each block."""
    values = torch.randn(4, 50, generator=generator, requires_grad=True)
    direction = torch.randn(4, 50, generator=generator)
    rounded = fake_quantize(values, activation_format("mxfp4"))
    (found,) = torch.autograd.grad(rounded, values, direction)
    error = direction * (rounded - values).detach()
    expected = direction.clone()
    for row in range(4):
        for block in (slice(0, 32), slice(32, 50)):
            top = block.start + int(values[row, block].abs().argmax())
            expected[row, top] += error[row, block].sum() / values[row, top].item()
    assert torch.allclose(found, expected, atol=1e-6)
    # Growing by a factor is a change of unit, under which the rounded values grow alike.
    assert float((found * values.detach()).sum()) == pytest.approx(
        float((direction * rounded.detach()).sum()), rel=1e-4
    )


def test_blocks_of_zeros_have_plain_gradients() -> None:
    values = torch.zeros(2, 40, requires_grad=True)
    (found,) = torch.autograd.grad(fake_quantize(values, activation_format("mxint8")).sum(), values)
    assert torch.equal(found, torch.ones(2, 40))
