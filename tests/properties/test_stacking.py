"""Stacking quantized tensors is quantizing the stacked tensor, bit for bit."""

from __future__ import annotations

import pytest
import torch
from format_rows import ENTROPY_CODED, FIXED_WIDTH
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.base.errors import FormatError
from octavo.formats import parse
from octavo.formats.stacking import stack, stackable
from octavo.kernels.layout import layout_of

BY_ROW = [text for text in FIXED_WIDTH if stackable(parse(text), (16, 27, 5))]


def test_what_belongs_to_the_whole_tensor_does_not_stack() -> None:
    for text in ("lloyd@3", "cbrt-t(df=fit)@4", "int@4 tensor", "nvfp4", "nf4 b64 absmax:u8", "int@4 outliers=0.01"):
        assert not stackable(parse(text), (16, 64))
    assert not any(stackable(parse(text), (16, 64)) for text in ENTROPY_CODED)
    assert not stackable(parse("columns(int@8=1,int@4)"), (16, 64))
    assert {"mxfp4", "int@4 b32 search:fp16", "int@8 channel absmax:fp32", "cbrt-normal@4 b64 absmax:bf16"} < {*BY_ROW}


def test_codes_must_fill_whole_bytes() -> None:
    assert stackable(parse("int@3"), (2, 12))
    assert not stackable(parse("int@3"), (1, 12))
    assert stackable(parse("int(levels=11)"), (4, 12))
    assert not stackable(parse("int(levels=11)"), (2, 12))


@pytest.mark.parametrize("text", BY_ROW)
@settings(max_examples=15)
@given(heights=st.tuples(st.integers(1, 3), st.integers(1, 3)), columns=st.integers(1, 70), seed=st.integers(0, 99))
def test_stacking_is_quantizing_together(text: str, heights: tuple[int, int], columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    format = parse(text)
    whole = layout_of(format.levels or 2).digits
    upper, lower = (torch.randn(height, whole, columns, generator=generator) for height in heights)
    together, stacked = format.quantize(torch.cat([upper, lower])), stack(*map(format.quantize, (upper, lower)))
    assert stacked.shape == together.shape
    assert stacked.parts.keys() == together.parts.keys()
    for name, part in together.parts.items():
        assert torch.equal(stacked.parts[name].view(torch.uint8), part.view(torch.uint8))


def test_what_does_not_fit_is_refused() -> None:
    tensor = torch.ones(4, 8)
    four = parse("int@4").quantize(tensor)
    with pytest.raises(FormatError, match="does not go below"):
        stack(four, parse("int@3").quantize(tensor))
    with pytest.raises(FormatError, match="does not go below"):
        stack(four, parse("int@4").quantize(torch.ones(4, 9)))
    with pytest.raises(FormatError, match="not decoded row by row"):
        stack(*[parse("int@4 tensor").quantize(tensor)] * 2)
