"""Packing: dense, exact, and safe on any bytes, for every alphabet of 2 to 256 levels."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo import kernels
from octavo.base.errors import FormatError
from octavo.formats.coding.packing import pack, packed_bytes, unpack
from octavo.kernels.layout import layout_of

levels_and_codes = st.integers(2, 256).flatmap(
    lambda levels: st.tuples(st.just(levels), st.lists(st.integers(0, levels - 1), max_size=100))
)


def as_bytes(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8)


@given(levels_and_codes)
def test_codes_come_back_and_take_the_bytes_foretold(case: tuple[int, list[int]]) -> None:
    levels, codes = case
    packed = pack(as_bytes(codes), levels)
    assert packed.numel() == packed_bytes(len(codes), levels)
    assert unpack(packed, levels, len(codes)).tolist() == codes


@given(levels_and_codes, st.integers(0, 254), st.integers(1, 2))
def test_repacked_codes_are_those_of_the_larger_alphabet(case: tuple[int, list[int]], more: int, at_once: int) -> None:
    levels, codes = case
    wider = min(levels + more, 256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "AT_ONCE", at_once)
        found = kernels.repack(pack(as_bytes(codes), levels), levels, wider, len(codes))
    assert torch.equal(found, pack(as_bytes(codes), wider))


@given(st.integers(2, 256), st.integers(1, 100), st.data())
def test_damaged_bytes_still_decode_below_the_number_of_levels(levels: int, count: int, data: st.DataObject) -> None:
    size = packed_bytes(count, levels)
    damaged = data.draw(st.lists(st.integers(0, 255), min_size=size, max_size=size))
    assert int(unpack(as_bytes(damaged), levels, count).max()) < levels


@pytest.mark.parametrize("levels", [2, 3, 5, 11, 17, 100, 255, 256])
def test_the_largest_codes_come_back(levels: int) -> None:
    codes = torch.full((97,), levels - 1, dtype=torch.uint8)
    assert torch.equal(unpack(pack(codes, levels), levels, 97), codes)


def test_four_bits_fill_the_low_half_first() -> None:
    assert pack(as_bytes([0x1, 0x2, 0x3]), 16).tolist() == [0x21, 0x03]


def test_eight_codes_of_three_bits_are_one_little_endian_number() -> None:
    codes = [1, 2, 3, 4, 5, 6, 7, 0]
    number = sum(code << (3 * place) for place, code in enumerate(codes))
    assert pack(as_bytes(codes), 8).tolist() == list(number.to_bytes(3, "little"))


def test_five_ternary_digits_make_a_byte_and_the_rest_the_fewest_bytes() -> None:
    assert pack(as_bytes([1, 2, 0, 2, 1, 2]), 3).tolist() == [1 + 2 * 3 + 2 * 27 + 81, 2]


def test_sixteen_digits_of_base_eleven_take_seven_bytes() -> None:
    codes = [index % 11 for index in range(16)]
    number = sum(code * 11**place for place, code in enumerate(codes))
    assert pack(as_bytes(codes), 11).tolist() == list(number.to_bytes(7, "little"))


@pytest.mark.parametrize("levels", range(2, 257))
def test_up_to_64_levels_waste_at_most_a_quarter_bit_and_no_code_takes_more_than_a_byte(levels: int) -> None:
    layout = layout_of(levels)
    rate = 8 * layout.bytes / layout.digits
    assert levels**layout.digits <= 256**layout.bytes
    assert math.log2(levels) <= rate <= (math.log2(levels) + 0.25 if levels <= 64 else 8.0)


def test_rows_run_on_without_padding(generator: torch.Generator) -> None:
    codes = torch.randint(0, 8, (3, 5), generator=generator, dtype=torch.uint8)
    assert packed_bytes(15, 8) == 6
    assert torch.equal(unpack(pack(codes.flatten(), 8), 8, 15).view(3, 5), codes)


@pytest.mark.parametrize("levels", [-1, 0, 1, 257])
def test_impossible_alphabets_are_refused(levels: int) -> None:
    with pytest.raises(FormatError, match="cannot be packed"):
        packed_bytes(4, levels)


@pytest.mark.parametrize("levels", [3, 8])
def test_a_code_beyond_the_alphabet_is_refused(levels: int) -> None:
    with pytest.raises(FormatError, match="not below"):
        pack(as_bytes([0, levels, 0]), levels)


def test_codes_are_not_repacked_for_fewer_levels() -> None:
    with pytest.raises(FormatError, match="do not fit 3"):
        kernels.repack(pack(as_bytes([0, 1]), 4), 4, 3, 2)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_stream_of_the_wrong_length_is_refused(change: int) -> None:
    with pytest.raises(FormatError, match="100 codes of 11 levels take 44 bytes"):
        unpack(torch.zeros(44 + change, dtype=torch.uint8), 11, 100)
