"""The grammar of formats, sparse outliers, and the complete formats against their specifications."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from octavo.base.errors import CheckpointError, FormatError
from octavo.formats import Format, Importance, Scaling, parse
from octavo.formats.elements import parse_element
from octavo.formats.elements.grid import Grid
from octavo.formats.microscaling import MICROSCALING
from octavo.formats.outliers import decode_index, encode_index, largest, outlier_bits, outlier_count
from octavo.formats.scale_types import SCALE_TYPES

ELEMENTS = ("cbrt-normal@4", "cbrt-t(df=5,levels=11)", "cbrt-laplace(alpha=1/3)@3", "lloyd@2", "int@4", "nf4", "e3m2")
SCALINGS = st.builds(
    Scaling,
    st.one_of(st.sampled_from(["tensor", "channel"]), st.integers(1, 4096).map("b{}".format)),
    st.sampled_from(["absmax", "rms", "absmean", "search"]),
    st.sampled_from(sorted(SCALE_TYPES)),
)
FRACTIONS = st.one_of(st.just(0.0), st.floats(0, 0.5), st.sampled_from([2**-10, 1 / 3, 0.001]))
POSITIVE = st.floats(1e-30, 1e30)


@given(st.sampled_from(ELEMENTS), SCALINGS, FRACTIONS, st.sampled_from(["fixed", "ans"]))
def test_formats_round_trip(element: str, scaling: Scaling, outliers: float, code: str) -> None:
    format = Format(parse_element(element), scaling, outliers, "ans" if code == "ans" else "fixed")
    assert parse(str(format)) == format
    assert Format.from_json(format.to_json()) == format


@given(st.one_of(st.builds(Grid, rate=POSITIVE), st.builds(Grid, step=POSITIVE)))
def test_grids_print_exactly(grid: Grid) -> None:
    for format in (Format(grid, Scaling("separable", None, None), 0.0, "ans"), Format(grid, Scaling(), 0.0, "ans")):
        assert parse(str(format)) == format
        assert Format.from_json(format.to_json()) == format
        assert format.levels is None


def test_defaults_are_filled_in_and_order_is_free() -> None:
    assert str(parse("cbrt-t(df=5)@3")) == "cbrt-t(df=5)@3 b64 absmax:bf16"
    assert str(parse("  int@4   search  channel ")) == "int@4 channel search:bf16"
    assert str(parse("nf4 ans outliers=1/1024 rms:fp32 tensor")) == "nf4 tensor rms:fp32 outliers=0.0009765625 ans"
    assert str(parse("grid@3 tensor rms:fp32 ans")) == "grid@3.0 tensor rms:fp32 ans"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("cbrt-norml@4", "did you mean cbrt-normal"),
        ("nf4 b64 absmx:bf16", "did you mean absmax"),
        ("nf4 b64 absmax:bf17", "unknown scale type"),
        ("nf4 b64 absmax:", "unknown scale type"),
        ("nf4 b0", "unknown granularity"),
        ("nf4 b64 b32", "two granularity tokens"),
        ("nf4 b64 signmax:u8", "need a sign"),
        ("nf4 outliers=0.7", "out of range"),
        ("nf4 outliers=many", "not a number"),
        ("nf4 separable", "belong to grids"),
        ("mxfp4 b32", "complete format"),
        ("mxfp4@4", "no complete format|unknown"),
        ("grid@3.0 tensor rms:fp32", "no fixed width"),
        ("grid@0 ans", "impossible"),
        ("grid@x ans", "no grid"),
        ("grid(step=1e999) ans", "impossible"),
        ("grid ans", "either a rate or a step"),
        ("grid@3.0 separable rms:fp32 ans", "no statistic"),
    ],
)
def test_bad_strings_are_refused(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse(text)


def test_bad_fields_are_refused() -> None:
    fields = parse("nf4").to_json()
    for wrong in ({}, {**fields, "more": 1}, {**fields, "outliers": "0.1"}, {**fields, "code": "zip"}):
        with pytest.raises(FormatError):
            Format.from_json(wrong)
    with pytest.raises(FormatError):
        Format.from_json({**fields, "element": 4})


def test_importance_of_another_shape_is_refused() -> None:
    with pytest.raises(FormatError, match="importance"):
        parse("nf4").quantize(torch.ones(4, 8), Importance(torch.ones(8), torch.ones(4)))
    with pytest.raises(FormatError, match="negative"):
        parse("nf4").quantize(torch.ones(4, 8), Importance(torch.ones(4), -torch.ones(8)))


@given(st.data())
def test_outlier_positions_round_trip(data: st.DataObject) -> None:
    numel = data.draw(st.integers(1, 5000))
    chosen = data.draw(st.sets(st.integers(0, numel - 1), max_size=200))
    positions = torch.tensor(sorted(chosen), dtype=torch.int64)
    packed = encode_index(positions, numel)
    assert torch.equal(decode_index(packed, len(chosen), numel), positions)
    fraction = len(chosen) / numel
    if outlier_count(fraction, numel) == len(chosen):
        assert 8 * packed.numel() + 16 * len(chosen) == outlier_bits(fraction, numel)


def test_outlier_positions_are_stored_byte_by_byte_as_documented() -> None:
    # n = 16, k = 3: l = 2. Low bits of 1, 7, 9: 01, 11, 01 -> 0b01_11_01. High parts 0, 1, 2: 10 10 10 0 -> 0b0010101.
    packed = encode_index(torch.tensor([1, 7, 9]), 16)
    assert packed.tolist() == [0b011101, 0b0010101]


def test_outlier_positions_take_twelve_bits_at_one_in_a_thousand() -> None:
    numel = 2**20
    assert outlier_bits(2**-10, numel) / 2**10 - 16 == pytest.approx(12, abs=0.01)


def test_damaged_outlier_positions_are_refused() -> None:
    packed = encode_index(torch.tensor([1, 7, 9]), 16)
    for damaged in (packed[:-1], packed | 128, packed & 0):
        with pytest.raises(CheckpointError):
            decode_index(damaged, 3, 16)


@given(st.integers(1, 40), st.integers(0, 10**6), st.booleans())
def test_outliers_are_the_largest(count: int, seed: int, weighted: bool) -> None:
    draws = torch.Generator().manual_seed(seed)
    matrix = torch.randn(6, 20, generator=draws).mul(4).round() / 4  # ties are likely
    importance = Importance(torch.rand(6, generator=draws), torch.rand(20, generator=draws)) if weighted else None
    found = largest(matrix, count, importance)
    scores = (
        matrix.abs() if importance is None else matrix.abs() * importance.column.sqrt() * importance.row.sqrt()[:, None]
    )
    assert torch.equal(found, found.unique())
    assert len(found) == count
    expected = scores.flatten().sort(descending=True).values[:count]
    assert torch.equal(scores.flatten()[found].sort(descending=True).values, expected)


def test_outliers_come_back_in_bfloat16_and_free_the_scale() -> None:
    weights = torch.full((2, 64), 0.01)
    weights[1, 5] = 3.01
    values = parse("int@4 tensor absmax:fp32 outliers=0.01").fake_quantize(weights)
    assert values[1, 5] == torch.tensor(3.01).bfloat16()
    assert (values.flatten()[:64] - 0.01).abs().max() < 1.3e-3


def heavy(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    spread = torch.exp(2 * torch.randn(rows, columns // 16, generator=draws)).repeat_interleave(16, 1)
    return torch.randn(rows, columns, generator=draws) * spread * 0.02


def test_mx_scales_follow_the_specification() -> None:
    weights = heavy(16, 64)
    weights[0, :32] = 0
    for name, top in (
        ("mxfp4", 2),
        ("mxfp6-e2m3", 2),
        ("mxfp6-e3m2", 4),
        ("mxfp8-e4m3", 8),
        ("mxfp8-e5m2", 15),
        ("mxint8", 0),
        ("mxint4", 0),
    ):
        scales = parse(name).quantize(weights).parts["scales"]
        expected = weights.view(16, 2, 32).abs().amax(-1).log2().floor().sub(top).exp2()
        assert scales.dtype == torch.float8_e8m0fnu
        assert torch.equal(scales.float()[1:], expected[1:]), name
        assert scales.view(torch.uint8)[0, 0] == 0


@pytest.mark.parametrize("name", [name for name, element in MICROSCALING.items() if element.exponent])
def test_elements_round_to_nearest_even(name: str) -> None:
    """Against a search through all values in float64: nearest, on ties the code with an even last bit."""
    element = MICROSCALING[name]
    values = element.codebook("absmax", None).double()
    grid = torch.cat([values, (values[1:] + values[:-1]) / 2, torch.tensor([1e-9, -1e-9, 1e9, -1e9]).double()])
    codes = element.encode_elements(grid.float().unsqueeze(0))
    found = element.decode_elements(codes)[0].double()
    distance = (grid[:, None] - values).abs()
    assert torch.equal((grid - found).abs(), distance.min(1).values)
    tied = (distance == distance.min(1).values[:, None]).sum(1) == 2
    assert not (codes[0][tied] & 1).any()


def test_mxint8_is_symmetric_and_rounds_to_even() -> None:
    values = torch.tensor([[127.9, -127.9, 0.5, 1.5, -2.5, 64.0]]) / 64
    assert torch.equal(parse("mxint8").fake_quantize(values), torch.tensor([[127.0, -127, 0, 2, -2, 64]]) / 64)


def test_mxint4_is_symmetric_and_rounds_to_even() -> None:
    values = torch.tensor([[7.9, -7.9, 0.5, 1.5, -2.5, 4.0, -7.0]]) / 4
    assert torch.equal(parse("mxint4").fake_quantize(values), torch.tensor([[7.0, -7, 0, 2, -2, 4, -7]]) / 4)


@pytest.mark.peers
@pytest.mark.parametrize("name", [name for name in MICROSCALING if name.startswith("mxfp")])
@pytest.mark.filterwarnings("ignore")
def test_mx_formats_agree_with_torchao(name: str) -> None:
    mx = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
    constants = pytest.importorskip("torchao.prototype.mx_formats.constants")
    kinds = {
        "mxfp4": torch.float4_e2m1fn_x2,
        "mxfp6-e2m3": constants.DTYPE_FP6_E2M3,
        "mxfp6-e3m2": constants.DTYPE_FP6_E3M2,
        "mxfp8-e4m3": torch.float8_e4m3fn,
        "mxfp8-e5m2": torch.float8_e5m2,
    }
    weights = heavy(64, 128)
    weights[2] = 0
    weights[3, :6] = torch.tensor([-1e-12, 0.25, 0.75, -1.25, 2.5, -5.0])
    scales, codes = mx.to_mx(weights, kinds[name], 32)
    ours = parse(name).quantize(weights)
    assert torch.equal(ours.parts["scales"].view(torch.uint8), scales.view(torch.uint8))
    if name == "mxfp4":  # two codes to a byte, the first in the low half, as in ours
        assert torch.equal(ours.parts["codes"], codes.flatten())
    elif name.startswith("mxfp8"):
        assert torch.equal(ours.parts["codes"], codes.view(torch.uint8).flatten())
    else:
        from octavo.kernels import unpack

        assert torch.equal(unpack(ours.parts["codes"], 64, weights.numel()), codes.flatten())


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_nvfp4_agrees_with_torchao() -> None:
    nv = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor")
    weights = heavy(64, 128)
    weights[2] = 0
    level = nv.per_tensor_amax_to_scale(weights.abs().max())
    theirs = nv.NVFP4Tensor.to_nvfp4(weights, per_tensor_scale=level)
    ours = parse("nvfp4").quantize(weights)
    assert torch.equal(ours.parts["scale"], level.reshape(1))
    assert torch.equal(ours.parts["scales"].view(torch.uint8), theirs.scale.view(torch.uint8))
    assert torch.equal(ours.parts["codes"], theirs.qdata.view(torch.uint8).flatten())
    assert torch.equal(ours.dequantize(), theirs.dequantize(torch.float32))


@pytest.mark.peers
def test_nf4_agrees_with_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    weights = heavy(32, 128)
    packed, state = functional.quantize_4bit(weights, blocksize=64, quant_type="nf4")
    expected = functional.dequantize_4bit(packed, state)
    torch.testing.assert_close(parse("nf4 b64 absmax:fp32").fake_quantize(weights), expected, rtol=1e-6, atol=0)
