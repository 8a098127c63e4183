"""The bit-shift trellis: C++ against torch, torch against every path, and windows against a walk through the states."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from octavo import kernels
from octavo.base.errors import FormatError
from octavo.kernels import checks, cpu, reference
from octavo.kernels.shift_trellis import MIXERS, STATES, check_trellis, column_bytes, ranks
from octavo.measure.rate_distortion import distortion_bound, relative_error
from octavo.measure.sources import Normal

TRELLISES = [(states, bits) for states in STATES for bits in range(1, len(MIXERS[states]) + 1)]
SMALL = [(states, bits) for states, bits in TRELLISES if states <= 1024]
needs_cpp = pytest.mark.skipif(bool(cpu.MISSING), reason=f"the C++ kernels are not built: {cpu.MISSING}")
both_loops = pytest.mark.parametrize("portable", [False, True], ids=["fastest", "portable"])
SHAPES = [(1, 1), (70, 1), (33, 19), (8, 8), (0, 3), (3, 0)]


def normal_table(states: int, bits: int) -> Tensor:
    return torch.special.ndtri((ranks(states, bits).double() + 0.5) / states).float()


def plain_scales(columns: int) -> tuple[Tensor, int, Tensor]:
    return torch.ones(1, 1), max(columns, 1), torch.ones(columns)


def values(codes: Tensor, table: Tensor, bits: int, rows: int) -> Tensor:
    return reference.shift_decode(codes, table, bits, rows, *plain_scales(len(codes)))


def walk(codes: list[int], states: int, bits: int) -> list[int]:
    """The states that codes lead through, from the last row to the first, in the order of the rows."""
    state, found = 0, []
    for code in reversed(codes):
        state = (state * 2**bits + code) % states
        found.append(state)
    return found[::-1]


def unpacked(stream: Tensor, bits: int, rows: int) -> list[int]:
    whole = int.from_bytes(bytes(stream.tolist()), "little")
    return [whole >> (row * bits) & (2**bits - 1) for row in range(rows)]


@pytest.mark.parametrize(("states", "bits"), TRELLISES)
def test_every_rank_occurs_once(states: int, bits: int) -> None:
    assert torch.equal(ranks(states, bits).sort().values, torch.arange(states))


@pytest.mark.parametrize(("states", "bits", "rows"), [(16, 1, 9), (16, 2, 5), (64, 3, 3), (8, 1, 9)])
def test_no_other_path_has_less_error(states: int, bits: int, rows: int, generator: torch.Generator) -> None:
    table = torch.randn(states, generator=generator)
    scaled = torch.randn(rows, 4, generator=generator)
    found = values(reference.shift_encode(scaled, table, bits), table, bits, rows)
    error = (found - scaled).double().square().sum(0)
    paths = torch.tensor([walk(list(codes), states, bits) for codes in product(range(2**bits), repeat=rows)])
    least = (table[paths].double()[:, :, None] - scaled).square().sum(1).amin(0)
    torch.testing.assert_close(error, least, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("states", "bits"), SMALL)
def test_a_window_is_the_state_that_the_codes_lead_to(states: int, bits: int, generator: torch.Generator) -> None:
    codes = torch.randint(256, (3, column_bytes(40, bits)), generator=generator, dtype=torch.uint8)
    table = torch.arange(states).float()
    found = values(codes, table, bits, 40)
    for column, stream in enumerate(codes):
        assert found[:, column].tolist() == walk(unpacked(stream, bits, 40), states, bits)


@needs_cpp
@both_loops
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("states", "bits"), SMALL)
def test_cpp_finds_the_same_path(
    shape: tuple[int, int], states: int, bits: int, portable: bool, generator: torch.Generator
) -> None:
    table = normal_table(states, bits)
    scaled = 1.5 * torch.randn(shape, generator=generator)
    if scaled.numel() > 4:
        scaled[-1, 0], scaled[0, 0], scaled[1, 0] = 1e30, -torch.inf, -0.0
    expected = reference.shift_encode(scaled, table, bits)
    assert torch.equal(cpu.shift_encode(scaled, table, bits, portable), expected)


@needs_cpp
@both_loops
@pytest.mark.parametrize("bits", [1, 3, 6])
def test_cpp_finds_the_same_path_through_many_states(bits: int, portable: bool, generator: torch.Generator) -> None:
    table = normal_table(4096, bits)
    scaled = torch.randn(21, 3, generator=generator)
    expected = reference.shift_encode(scaled, table, bits)
    assert torch.equal(cpu.shift_encode(scaled, table, bits, portable), expected)


@needs_cpp
@both_loops
def test_cpp_breaks_ties_alike(portable: bool, generator: torch.Generator) -> None:
    for states, bits in SMALL:
        table = (normal_table(states, bits) * 2).round()
        scaled = torch.randint(-6, 7, (50, 5), generator=generator).float() / 2
        expected = reference.shift_encode(scaled, table, bits)
        assert torch.equal(cpu.shift_encode(scaled, table, bits, portable), expected)


@needs_cpp
@both_loops
@pytest.mark.parametrize("shape", [*SHAPES, (700, 21)], ids=str)
@pytest.mark.parametrize(("states", "bits"), TRELLISES)
def test_cpp_decodes_alike(
    shape: tuple[int, int], states: int, bits: int, portable: bool, generator: torch.Generator
) -> None:
    rows, columns = shape
    # Also streams that go on beyond the last row.
    for spare in (0, 1, 5):
        codes = torch.randint(256, (columns, column_bytes(rows, bits) + spare), generator=generator, dtype=torch.uint8)
        table = torch.randn(states, generator=generator)
        column = torch.randn(columns, generator=generator)
        for scale_rows, block in ((rows, 5), (1, 3), (rows, max(columns, 1)), (1, 2**40)):
            scales = torch.randn(scale_rows, -(-columns // block), generator=generator)
            arguments = codes, table, bits, rows, scales, block, column
            assert torch.equal(cpu.shift_decode(*arguments, portable), reference.shift_decode(*arguments))


def test_columns_are_independent(generator: torch.Generator) -> None:
    scaled, table = torch.randn(90, 20, generator=generator), normal_table(256, 2)
    whole = kernels.shift_encode(scaled, table, 2)
    single = [kernels.shift_encode(scaled[:, [j]], table, 2) for j in range(20)]
    assert torch.equal(torch.cat(single), whole)


def test_any_eight_rows_are_read_by_themselves(generator: torch.Generator) -> None:
    table = normal_table(1024, 3)
    codes = kernels.shift_encode(torch.randn(64, 5, generator=generator), table, 3)
    whole = kernels.shift_decode(codes, table, 3, 64, *plain_scales(5))
    for first in range(0, 64, 8):
        # Three bytes of codes, and the seven bits more that the last window looks ahead.
        cut = codes[:, first * 3 // 8 : first * 3 // 8 + 4]
        assert torch.equal(kernels.shift_decode(cut, table, 3, 8, *plain_scales(5)), whole[first : first + 8])


def test_more_states_leave_less_error(generator: torch.Generator) -> None:
    scaled = torch.randn(512, 16, generator=generator)
    for bits, spread in ((1, 0.9), (2, 1.03), (3, 1.09), (4, 1.13)):
        errors = []
        for states in (256, 1024, 4096):
            table = spread * normal_table(states, bits)
            codes = kernels.shift_encode(scaled, table, bits)
            errors.append(relative_error(scaled, kernels.shift_decode(codes, table, bits, 512, *plain_scales(16))))
        assert errors[0] > 1.01 * errors[1] > 1.01**2 * errors[2]
        # The bound holds for the law; of so few samples the mean square is off by some per cent.
        assert distortion_bound(Normal(), bits) < errors[2] < 1.35 * distortion_bound(Normal(), bits)


def test_what_does_not_fit_is_refused(generator: torch.Generator) -> None:
    scaled, table = torch.randn(16, 3, generator=generator), normal_table(256, 2)
    codes = kernels.shift_encode(scaled, table, 2)
    scales, _, column = plain_scales(3)
    refused: list[tuple[str, Callable[[], object]]] = [
        ("is NaN", lambda: checks.check_shift_weights(scaled * torch.nan, table, 2)),
        ("float64", lambda: checks.check_shift_weights(scaled.double(), table, 2)),
        ("no trellis of 12 states", lambda: checks.check_shift_weights(scaled, table[:12], 2)),
        ("no codes of 5 bits", lambda: checks.check_shift_weights(scaled, table, 5)),
        ("no codes of 0 bits", lambda: checks.check_shift_weights(scaled, table, 0)),
        ("table is NaN", lambda: checks.check_shift_weights(scaled, table * torch.inf, 2)),
        ("do not fit streams of 3 bytes", lambda: checks.check_shift_codes(codes[:, :3], table, 2, 16, column)),
        ("do not fit streams", lambda: checks.check_shift_codes(codes, table, 2, -1, column)),
        ("streams are", lambda: checks.check_shift_codes(codes.flatten(), table, 2, 16, column)),
        ("column scales are", lambda: checks.check_shift_codes(codes, table, 2, 16, column[:2])),
        ("scales of shape", lambda: kernels.shift_decode(codes, table, 2, 16, scales, 2, column)),
    ]
    for reason, call in refused:
        with pytest.raises(FormatError, match=reason):
            call()


@needs_cpp
def test_the_extension_checks_sizes_itself(generator: torch.Generator) -> None:
    native = cpu._extension()
    scaled, table = torch.randn(16, 3, generator=generator), normal_table(256, 2)
    codes, out = torch.zeros(3, 4, dtype=torch.uint8), torch.empty(16, 3)
    scales, _, column = plain_scales(3)
    for wrong in (
        lambda: native.shift_encode(scaled, table, 2, codes[:, :3].contiguous(), 1),
        lambda: native.shift_encode(scaled, table, 2, codes[:2], 1),
        lambda: native.shift_encode(scaled, table[:200], 2, codes, 1),
        lambda: native.shift_encode(scaled, table, 5, torch.zeros(3, 10, dtype=torch.uint8), 1),
        lambda: native.shift_encode(scaled, table, 0, codes, 1),
        lambda: native.shift_encode(scaled, torch.zeros(2**17), 1, codes, 1),
        lambda: native.shift_decode(codes[:, :3].contiguous(), table, 2, scales, 3, column, out, 1),
        lambda: native.shift_decode(codes, table, 2, scales, 3, column[:2], out, 1),
        lambda: native.shift_decode(codes, table, 2, scales, 0, column, out, 1),
        lambda: native.shift_decode(codes, table, 2, scales, 1, column, out, 1),
        lambda: native.shift_decode(codes, table, 2, scales, 3, column, out.bfloat16(), 1),
    ):
        with pytest.raises(ValueError, match=r"fit|classes|block"):
            wrong()


def test_sizes_that_have_no_mixer_are_refused() -> None:
    for states, bits in ((256, 5), (2048, 2), (4096, 7), (16384, 8)):
        with pytest.raises(FormatError, match=r"no trellis|no codes"):
            check_trellis(states, bits)
