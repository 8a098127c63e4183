"""What every format keeps, whatever its element, scaling, outliers or code (rows: format_rows.py)."""

from __future__ import annotations

import json
from itertools import pairwise
from math import prod

import numpy as np
import pytest
import torch
from format_rows import ENTROPY_CODED, FIXED_WIDTH, WIDTHS
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.formats import Format, Importance, parse
from octavo.formats.elements.grid import Grid
from octavo.formats.lattice.element import VectorElement
from octavo.formats.resident import resident, resident_format
from octavo.kernels.layout import is_power_of_two

SHAPES = ((1,), (7,), (300,), (1, 1), (3, 5), (5, 64), (4, 100), (2, 3, 33), (2, 2, 2, 130))


def weights(*shape: int, scale: float = 0.02) -> Tensor:
    """Heavy-tailed weights of a usual size, the same at each call."""
    draws = np.random.default_rng(prod(shape)).standard_t(5, shape)
    return torch.from_numpy(draws * scale).float()


def importance(rows: int, columns: int) -> Importance:
    """Factors that differ by orders of magnitude."""
    draws = np.random.default_rng(rows + columns)
    row, column = (torch.from_numpy(np.exp(2 * draws.standard_normal(size))).float() for size in (rows, columns))
    return Importance(row * 1e-7, column)


def has_no_zero(format: Format) -> bool:
    if str(format.element).startswith(("lattice-d4", "lattice-e8", "glvq")):
        return True
    parts = format.quantize(weights(4, 130)).parts
    return any(bool((part != 0).all()) for name, part in parts.items() if name.startswith("codebook"))


@pytest.mark.parametrize("text", FIXED_WIDTH + ENTROPY_CODED)
def test_text_is_canonical_and_round_trips(text: str) -> None:
    format = parse(text)
    assert str(format) == text
    assert parse(str(format)) == format
    assert hash(parse(text)) == hash(format)
    assert Format.from_json(json.loads(json.dumps(format.to_json()))) == format


@pytest.mark.parametrize("text", ENTROPY_CODED)
def test_data_dependent_sizes_are_refused(text: str) -> None:
    with pytest.raises(FormatError, match="depends on the data"):
        parse(text).bits((4, 64))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("text", FIXED_WIDTH)
def test_round_trip_keeps_shape_and_counts_every_bit(text: str, shape: tuple[int, ...]) -> None:
    format = parse(text)
    quantized = format.quantize(weights(*shape))
    values = quantized.dequantize()
    assert values.shape == shape
    assert values.dtype == torch.float32
    assert values.isfinite().all()
    assert quantized.stored_bits == format.stored_bits(shape)
    assert quantized.bits_per_weight == format.bits(shape)
    assert all(type(part) is Tensor and part.is_contiguous() for part in quantized.parts.values())


@pytest.mark.parametrize("shape", [(6, 130), (2, 3, 131)], ids=str)
@pytest.mark.parametrize("text", FIXED_WIDTH + ENTROPY_CODED)
def test_in_memory_codes_have_whole_bits_and_the_same_values(text: str, shape: tuple[int, ...]) -> None:
    quantized = parse(text).quantize(weights(*shape))
    held = resident(quantized)
    assert torch.equal(held.dequantize(), quantized.dequantize())
    assert held.format.code == "fixed" or isinstance(held.format.element, Grid)
    if held.format.code == "fixed":
        assert held.format == resident_format(parse(text))
        assert held.stored_bits == held.format.stored_bits(shape)
        elements = getattr(held.format.element, "elements", (held.format.element,))
        assert all(is_power_of_two(element.levels) for element in elements if not isinstance(element, VectorElement))
    assert resident(held) is held


@pytest.mark.parametrize("text", FIXED_WIDTH + ENTROPY_CODED)
def test_columns_round_one_after_the_other_as_they_do_together(text: str) -> None:
    """What error feedback relies on, also for weights that are not those the format was settled for."""
    matrix = weights(90, 130)
    rounder = parse(text).settle(matrix, importance(90, 130))
    moved = matrix + 0.3 * matrix.roll(1, 0)
    together = rounder.quantize(moved).dequantize()
    whole, own = rounder.round(slice(0, 130), matrix), slice(0, rounder.together)
    assert torch.equal(rounder.round(own, matrix[:, own].contiguous()), whole[:, own])
    for start in range(0, 130, rounder.together):
        run = slice(start, min(start + rounder.together, 130))
        rounded = rounder.round(run, moved[:, run].contiguous())
        # A grid's centroids are those of what is stored, which are not known while columns are rounded.
        tolerance = 0.02 * float(matrix.abs().max()) if "grid" in text else 1e-6
        torch.testing.assert_close(rounded, together[:, run], rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize("shape", [*SHAPES, (40, 130)], ids=str)
@pytest.mark.parametrize("text", ENTROPY_CODED)
def test_entropy_codes_round_trip(text: str, shape: tuple[int, ...]) -> None:
    format = parse(text)
    for original in (weights(*shape), torch.zeros(shape)):
        if text.startswith("grid") and "@" in text and prod(shape) < 1000:
            # The tables alone may exceed a rate; then that is said, and nothing worse happens.
            try:
                quantized = format.quantize(original)
            except FormatError:
                continue
            assert quantized.bits_per_weight <= format.element.rate
        else:
            quantized = format.quantize(original)
        values = quantized.dequantize()
        assert values.shape == shape
        assert values.dtype == torch.float32
        assert values.isfinite().all()
        assert original.any() or values.abs().max() < 2.0**-125


@pytest.mark.parametrize("text", FIXED_WIDTH)
def test_error_is_that_of_a_quantizer(text: str) -> None:
    format = parse(text)
    original = weights(16, 256)
    relative = (format.fake_quantize(original) - original).norm() / original.norm()
    assert format.levels is not None
    # Floats spend their exponent on range: what they resolve is half a unit in the last place.
    mantissa = getattr(format.element, "mantissa", 8)
    assert relative < max(3 / format.levels, 2.0 ** -(mantissa + 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("text", FIXED_WIDTH)
def test_the_dtype_of_the_weights_does_not_matter(text: str, dtype: torch.dtype) -> None:
    format = parse(text)
    narrow = weights(6, 70).to(torch.bfloat16 if dtype == torch.float64 else dtype)
    expected = format.quantize(narrow.float())
    found = format.quantize(narrow.to(dtype))
    assert all(torch.equal(bits(found.parts[name]), bits(expected.parts[name])) for name in expected.parts)


@pytest.mark.parametrize("text", FIXED_WIDTH)
def test_weights_may_be_strided_and_are_not_changed(text: str) -> None:
    format = parse(text)
    original = weights(70, 12)
    kept = original.clone()
    assert torch.equal(format.fake_quantize(original.T), format.fake_quantize(original.T.contiguous()))
    assert torch.equal(original, kept)


@pytest.mark.parametrize("text", FIXED_WIDTH)
def test_importance_is_taken_and_keeps_the_size(text: str) -> None:
    format = parse(text)
    original, known = weights(6, 130), importance(6, 130)
    quantized = format.quantize(original, known)
    assert quantized.stored_bits == format.stored_bits((6, 130))
    assert quantized.dequantize().isfinite().all()


@pytest.mark.parametrize("text", FIXED_WIDTH)
def test_importance_without_information_breaks_nothing(text: str) -> None:
    nothing = Importance(torch.zeros(6), torch.zeros(70))
    assert parse(text).fake_quantize(weights(6, 70), nothing).isfinite().all()


@pytest.mark.parametrize("text", [text for text in FIXED_WIDTH if "search" in text])
def test_importance_lowers_the_weighted_error(text: str) -> None:
    format = parse(text)
    original, known = weights(24, 192), importance(24, 192)

    def loss(values: Tensor) -> float:
        return float(((values - original).square() * known.matrix()).sum())

    assert loss(format.fake_quantize(original, known)) < loss(format.fake_quantize(original))


@pytest.mark.parametrize("text", FIXED_WIDTH)
def test_zeros_stay_zeros(text: str) -> None:
    format = parse(text)
    values = format.fake_quantize(torch.zeros(3, 70))
    if has_no_zero(format):
        # The smallest scale times the smallest centroid: 2^-126, in fp16 2^-24.
        assert values.abs().max() <= (2.0**-24 if format.scaling.scale == "fp16" else 2.0**-125)
    else:
        assert not values.any()


@pytest.mark.parametrize("text", FIXED_WIDTH)
def test_one_block_of_zeros_among_others(text: str) -> None:
    format = parse(text)
    original = weights(8, 128)
    original[3] = 0
    values = format.fake_quantize(original)
    assert values.isfinite().all()
    if format.scaling.granularity != "tensor" and not has_no_zero(format):
        assert not values[3].any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("text", FIXED_WIDTH + ENTROPY_CODED)
def test_what_is_not_finite_is_refused_and_located(text: str, value: float) -> None:
    original = weights(4, 70)
    original[2, 66] = value
    with pytest.raises(FormatError, match="row 2, column 66"):
        parse(text).quantize(original)


@pytest.mark.parametrize("text", FIXED_WIDTH)
def test_what_has_no_weights_is_refused(text: str) -> None:
    for empty in (torch.zeros(0, 4), torch.zeros(4, 0), torch.tensor(1.0)):
        with pytest.raises(FormatError, match="has no weights"):
            parse(text).quantize(empty)
    with pytest.raises(FormatError, match="int64"):
        parse(text).quantize(torch.zeros(3, 3, dtype=torch.int64))


@pytest.mark.parametrize("text", FIXED_WIDTH)
def test_powers_of_two_pass_through(text: str) -> None:
    """quantize(c·w) = c·quantize(w), bit for bit where nothing leaves the scale's range."""
    format = parse(text)
    original = weights(8, 100)
    assert torch.equal(format.fake_quantize(original * 8), format.fake_quantize(original) * 8)


@pytest.mark.parametrize(
    "text",
    [
        t
        for t in FIXED_WIDTH
        if parse(t).scaling.block and not any(s in t for s in ("outliers", "lloyd@", "trellis", "fit", "glvq"))
    ],
)
def test_blocks_are_quantized_alone(text: str) -> None:
    """Permuting blocks permutes the result, where nothing is fitted to all of them."""
    format = parse(text)
    block = format.scaling.block
    assert block is not None
    original = weights(4, 4 * block)
    order = torch.tensor([2, 0, 3, 1])
    permuted = original.view(4, 4, block)[:, order].reshape(4, -1)
    expected = format.fake_quantize(original).view(4, 4, block)[:, order].reshape(4, -1)
    assert torch.equal(format.fake_quantize(permuted), expected)


@pytest.mark.parametrize(
    "text",
    [t for t in FIXED_WIDTH if "absmax:fp32" in t and "int@" not in t]
    + ["cbrt-t(df=5)@5 tensor absmax:fp32", "nf4 b64 absmax:fp32", "mxfp4", "mxfp8-e4m3", "mxint8"],
)
def test_quantizing_twice_is_quantizing_once(text: str) -> None:
    format = parse(text)
    once = format.fake_quantize(weights(8, 200))
    assert torch.equal(format.fake_quantize(once), once)


@pytest.mark.parametrize(("family", "widths"), WIDTHS, ids=[family for family, _ in WIDTHS])
def test_every_bit_lowers_the_error(family: str, widths: range) -> None:
    original = weights(32, 128)
    errors = [float((parse(family.format(bits)).fake_quantize(original) - original).norm()) for bits in widths]
    assert all(later < earlier for earlier, later in pairwise(errors))


def bits(part: Tensor) -> Tensor:
    return part.contiguous().view(torch.uint8)
