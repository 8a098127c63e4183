"""Groups of tokens are quantized as their format says, along tokens or channels, however they come."""

from __future__ import annotations

import pytest
import torch
from format_rows import FIXED_WIDTH
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.formats import parse
from octavo.formats.stacking import stackable
from octavo.models.packed_tokens import PackedTokens, Sharing

HEADS, CHANNELS, GROUP = 2, 68, 24
SHARINGS: tuple[Sharing, ...] = ("channel", "token")


def states(tokens: int, seed: int = 0) -> Tensor:
    return torch.randn(HEADS, tokens, CHANNELS, generator=torch.Generator().manual_seed(seed))


def dense(packed: PackedTokens) -> Tensor:
    out = torch.empty(HEADS, packed.tokens, CHANNELS)
    packed.dequantize_into(out)
    return out


def turned(group: Tensor, sharing: Sharing) -> Tensor:
    return group.transpose(1, 2) if sharing == "channel" else group


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("text", FIXED_WIDTH)
def test_a_group_is_what_its_format_makes_of_it(text: str, sharing: Sharing) -> None:
    format, given = parse(text), states(2 * GROUP)
    packed = PackedTokens(format, sharing, GROUP).extended(given[:, :GROUP]).extended(given[:, GROUP:])
    expected = [turned(format.fake_quantize(turned(group, sharing)), sharing) for group in given.split(GROUP, dim=1)]
    assert torch.equal(dense(packed), torch.cat(expected, dim=1))
    assert (packed.tokens, packed.numel) == (2 * GROUP, given.numel())


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("text", ["int@4 b32", "int@3 channel", "int(levels=3) b16", "lloyd@3", "nvfp4"])
def test_every_byte_is_counted(text: str, sharing: Sharing) -> None:
    format = parse(text)
    packed = PackedTokens(format, sharing, GROUP).extended(states(3 * GROUP))
    bits = 8 * sum(tensor.untyped_storage().nbytes() for tensor in packed.tensors())
    rows, columns = (HEADS * CHANNELS, GROUP) if sharing == "channel" else (HEADS * GROUP, CHANNELS)
    if stackable(format, (1, rows, columns)):
        assert len(packed.runs) == 1
        assert bits == format.stored_bits((3 * rows, columns))
    else:
        assert len(packed.runs) == 3
        assert bits == 3 * format.stored_bits((rows, columns))


@settings(max_examples=20)
@given(
    steps=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    text=st.sampled_from(["int@4 b16", "lloyd@2", "int(levels=5) channel"]),
)
def test_it_does_not_matter_how_many_groups_come_at_a_time(steps: list[int], text: str) -> None:
    given = states(GROUP * sum(steps))
    empty = PackedTokens(parse(text), "channel", GROUP)
    packed, done = empty, 0
    for step in steps:
        packed = packed.extended(given[:, done : done + GROUP * step])
        done += GROUP * step
    assert torch.equal(dense(packed), dense(empty.extended(given)))
    assert empty.tokens == 0


@pytest.mark.parametrize("sharing", SHARINGS)
@given(levels=st.integers(3, 255).map(lambda n: n | 1), seed=st.integers(0, 99))
def test_an_error_is_at_most_half_a_step(sharing: Sharing, levels: int, seed: int) -> None:
    given = states(GROUP, seed)
    packed = PackedTokens(parse(f"int(levels={levels}) channel absmax:fp32"), sharing, GROUP).extended(given)
    largest = given.abs().amax(1 if sharing == "channel" else 2, keepdim=True)
    assert ((dense(packed) - given).abs() <= largest / (levels - 1) * (1 + 1e-5)).all()


@given(loudness=st.floats(10, 1000), seed=st.integers(0, 99))
def test_a_loud_channel_costs_the_others_nothing_where_scales_belong_to_channels(loudness: float, seed: int) -> None:
    """KIVI, section 3: the error of keys is confined to their outlier channels if scales belong to channels."""
    quiet = states(GROUP, seed)
    loud = quiet.clone()
    loud[:, :, 7] *= loudness

    def error(given: Tensor, sharing: Sharing) -> Tensor:
        packed = PackedTokens(parse("int(levels=15) channel absmax:fp32"), sharing, GROUP).extended(given)
        return (dense(packed) - given)[:, :, torch.arange(CHANNELS) != 7].square().mean()

    assert error(loud, "channel") == error(quiet, "channel")
    assert error(loud, "token") > 3 * error(quiet, "token")


def test_numbers_that_are_not_finite_are_refused() -> None:
    given = states(GROUP)
    given[1, 3, 5] = torch.nan
    with pytest.raises(FormatError, match="nan"):
        PackedTokens(parse("int@4"), "token", GROUP).extended(given)
