"""Norms, gates and attention of a decoding step: C++ against torch bit for bit, and torch against the plain formula."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from octavo.base.errors import FormatError
from octavo.kernels import cpu
from octavo.kernels import decoding as kernels
from octavo.kernels.cpu import decoding as native
from octavo.kernels.reference import decoding as reference

BUILT = pytest.mark.skipif(bool(cpu.MISSING), reason=f"the C++ kernels are not built: {cpu.MISSING}")
BOTH = pytest.mark.parametrize("portable", [False, True], ids=["fastest", "portable"])
TOKENS = 80


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


def test_the_exponential_is_one(generator: torch.Generator) -> None:
    x = torch.cat([torch.linspace(-87, 87, 10001), torch.randn(1000, generator=generator)])
    assert torch.allclose(reference.exponential(x).double(), x.double().exp(), rtol=4e-7, atol=0)
    assert reference.exponential(torch.tensor([-1e9, 0.0, 1e9])).isfinite().all()
    assert reference.exponential(torch.tensor([0.0, float("nan")])).isnan().tolist() == [False, True]


@given(st.integers(0, 2**32), st.integers(-30, 30))
def test_a_fused_product_is_rounded_once(seed: int, shift: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Of few bits, so that sums often lie halfway between two numbers or just beside that.
    a, b, c = (torch.randint(-(1 << bits), 1 << bits, (200,), generator=generator).float() for bits in (13, 12, 24))
    c = c * 2.0**shift
    found = reference.fused(a, b, c)
    for *numbers, result in zip(a.tolist(), b.tolist(), c.tolist(), found.tolist(), strict=True):
        x, y, z = map(Fraction, numbers)
        near = (torch.nextafter(torch.tensor(result), torch.tensor(end)).item() for end in (-math.inf, math.inf))
        miss = abs(x * y + z - Fraction(result))
        even = torch.tensor(result).view(torch.int32).item() % 2 == 0
        for other in near:
            beside = abs(x * y + z - Fraction(other))
            assert miss < beside or (miss == beside and even)


@pytest.mark.parametrize("width", [1, 15, 16, 17, 576])
def test_a_lane_sum_is_a_sum(width: int, generator: torch.Generator) -> None:
    x = torch.randn(3, width, generator=generator)
    assert torch.allclose(reference.lane_sum(x)[:, 0], x.sum(-1), atol=1e-4)


@BUILT
@BOTH
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("width", [1, 12, 33, 576])
def test_norms_agree(width: int, add: bool, portable: bool, generator: torch.Generator) -> None:
    residual, delta = (torch.randn(4, width, generator=generator) for _ in range(2))
    weight, out, ours = torch.rand(width, generator=generator), torch.full((4, width), 7.0), residual.clone()
    native.add_norm(ours, delta if add else None, weight, 1e-5, out, portable)(3)
    expected = residual[:3].clone()
    norm = reference.add_norm(expected, delta[:3] if add else None, weight, 1e-5)
    assert same(ours[:3], expected)
    assert same(out[:3], norm)
    assert same(ours[3], residual[3])
    assert out[3].eq(7).all()
    assert torch.allclose(norm, F.rms_norm(expected, (width,), weight, 1e-5), atol=1e-5)


@BUILT
@BOTH
@pytest.mark.parametrize("width", [1, 15, 16, 49, 100_003])
def test_the_likeliest_is_the_first_of_the_largest(width: int, portable: bool, generator: torch.Generator) -> None:
    rows = torch.randn(9, width, generator=generator).round(decimals=1)
    rows[1] = -5.0
    rows[2] = -torch.inf
    rows[3, width // 2] = torch.nan
    rows[4, width - 1] = torch.nan
    rows[5, width // 3] = torch.inf
    rows[6, width - 1] = 9.0
    rows[7, 0] = -torch.inf
    rows[8, torch.tensor([width // 2, width - 1])] = 7.0
    out = torch.full((9,), 3)
    native.likeliest(rows, out, portable)(9)
    assert torch.equal(out, reference.likeliest(rows))
    assert out[2:6].tolist() == [-1, -1, -1, -1]
    assert out[[1, 6, 8]].tolist() == [0, width - 1, width // 2]


@given(
    st.integers(0, 2**32),
    st.integers(1, 2000),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from((1e-60, 0.3, 1.0, 2.5)),
    st.integers(0, 3),
)
def test_a_number_falls_on_the_place_whose_share_it_is_in(
    seed: int, size: int, uniform: float, temperature: float, kind: int
) -> None:
    values = 4 * torch.randn(2, size, generator=torch.Generator().manual_seed(seed))
    if kind == 1:
        values[1, 1 + size // 3 :] = -torch.inf
    if kind == 2:
        values[1, : size // 2] = -torch.inf
    if kind == 3:
        uniform = 1 - 2.0**-53
    shares = (values[1].double() / max(temperature, 1e-30)).softmax(0)
    place = reference.drawn(values[1], temperature, uniform)
    end = float(shares[: place + 1].sum())
    assert shares[place] > 0
    assert end - float(shares[place]) - 1e-6 <= uniform <= end + 1e-6
    if not cpu.MISSING:
        for portable in (False, True):
            largest = [int(values[1].argmax())]
            assert native.draw(values, [1], largest, [temperature], [uniform], portable) == [place]


@BUILT
@BOTH
def test_many_rows_are_drawn_from_at_once(portable: bool, generator: torch.Generator) -> None:
    values = torch.randn(9, 60_001, generator=generator)
    values[2, 5] = torch.nan
    rows, temperatures = [8, 0, 5, 8], [0.5, 1.5, 2.0, 0.5]
    largest = values.argmax(-1)[rows].tolist()
    uniforms = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    assert native.draw(values, rows, largest, temperatures, uniforms, portable) == [
        reference.drawn(values[row], *rest) for row, *rest in zip(rows, temperatures, uniforms, strict=True)
    ]
    assert native.draw(values, [], [], [], [], portable) == []
    for row, place, problem in (
        (-1, 0, "row"),
        (9, 0, "row"),
        (1, -1, "place"),
        (1, 60_001, "place"),
        (2, 5, "finite"),
    ):
        with pytest.raises(FormatError, match=problem):
            native.draw(values, [row], [place], [1.0], [0.5], portable)
    with pytest.raises(FormatError, match="numbers"):
        native.draw(values, [1], [0], [1.0], [0.5, 0.5], portable)


@BUILT
@BOTH
@pytest.mark.parametrize("inner", [1, 16, 53])
def test_gates_agree(inner: int, portable: bool, generator: torch.Generator) -> None:
    found = 9 * torch.randn(3, 2 * inner, generator=generator)
    out = torch.empty(3, inner)
    native.gate(found, out, portable)(3)
    assert same(out, reference.gate(found))
    x, up = found.chunk(2, dim=-1)
    assert torch.allclose(out, F.silu(x) * up, rtol=1e-5, atol=1e-6)


@BUILT
@BOTH
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 36), (30, 64), (5, 600)])
def test_dense_products_agree(
    rows: int, columns: int, dtype: torch.dtype, bias: bool, portable: bool, generator: torch.Generator
) -> None:
    weight = torch.randn(rows, columns, generator=generator).to(dtype)
    added = torch.randn(rows, generator=generator) if bias else None
    inputs, out = torch.randn(6, columns, generator=generator), torch.full((6, rows), 7.0)
    run = native.dense(weight, added, inputs, out, portable)
    run(5)
    assert same(out[:5], reference.dense(inputs[:5], weight, added))
    assert out[5].eq(7).all()
    assert torch.allclose(out[:5], F.linear(inputs[:5], weight.float(), added), atol=1e-4)
    together = out.clone()
    run(1)
    assert same(out, together)


@BUILT
def test_large_products_are_shared_among_threads(generator: torch.Generator) -> None:
    weight, inputs = torch.randn(1031, 576, generator=generator), torch.randn(2, 576, generator=generator)
    out = torch.empty(2, 1031)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        native.dense(weight, None, inputs, out)(2)
    finally:
        torch.set_num_threads(threads)
    assert same(out, reference.dense(inputs, weight, None))


@BUILT
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("weight", torch.zeros(5, 7)),
        ("weight", torch.zeros(5, 8, dtype=torch.float16)),
        ("bias", torch.zeros(4)),
        ("inputs", torch.zeros(3, 8)),
        ("out", torch.zeros(2, 6)),
    ],
    ids=str,
)
def test_products_that_do_not_fit_are_refused(name: str, wrong: torch.Tensor) -> None:
    given = {"weight": torch.zeros(5, 8), "bias": torch.zeros(5), "inputs": torch.zeros(2, 8), "out": torch.zeros(2, 5)}
    with pytest.raises(FormatError, match="DenseProduct"):
        native.dense(**{**given, name: wrong})


def attention(
    generator: torch.Generator, width: int, share: int, norms: bool, window: int | None, rows: int = 3
) -> dict[str, Any]:
    """Arguments of attention over a filled cache, two shared heads, and out; what no token reached is NaN."""
    tiles, padded = TOKENS // 16, -(-width // 16) * 16
    positions = torch.tensor([0, 37, 79])[:rows]
    keys = torch.randn(4, 2, tiles, width, 16, generator=generator)
    values = torch.randn(4, 2, TOKENS, padded, generator=generator)
    slots = torch.tensor([2, 0, 3])[:rows]
    for slot, position in zip(slots.tolist(), positions.tolist(), strict=True):
        values[slot, :, position:] = float("nan")
        keys.transpose(3, 4).reshape(4, 2, TOKENS, width)[slot, :, position:] = float("nan")
        beyond = torch.arange(TOKENS).view(tiles, 1, 16) >= position
        keys[slot] = keys[slot].masked_fill(beyond, float("nan"))
    angles = torch.rand(TOKENS, width // 2, generator=generator) * 6
    return {
        "found": torch.randn(rows, (2 * share + 4) * width, generator=generator),
        "slots": slots,
        "positions": positions,
        "cosine": angles.cos(),
        "sine": angles.sin(),
        "keys": keys,
        "values": values,
        "query_norm": torch.rand(width, generator=generator) if norms else None,
        "key_norm": torch.rand(width, generator=generator) if norms else None,
        "window": window,
        "epsilon": 1e-6,
        "out": torch.empty(rows, 2 * share * width),
    }


def by_reference(given: dict[str, Any]) -> torch.Tensor:
    cache = [given[name] for name in ("cosine", "sine", "keys", "values", "query_norm", "key_norm")]
    rest = given["window"] or 0, given["epsilon"]
    rows = zip(given["found"], given["slots"].tolist(), given["positions"].tolist(), strict=True)
    return torch.stack([reference.attend(found, slot, position, *cache, *rest) for found, slot, position in rows])


@BUILT
@BOTH
@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("width", "share", "norms", "window"),
    [(12, 1, False, None), (64, 3, True, 20), (16, 2, True, 1), (80, 1, False, 33)],
)
def test_attention_agrees(
    width: int,
    share: int,
    norms: bool,
    window: int | None,
    kept: torch.dtype,
    portable: bool,
    generator: torch.Generator,
) -> None:
    given = attention(generator, width, share, norms, window)
    given |= {name: given[name].to(kept) for name in ("keys", "values")}
    twin = {name: x.clone() if isinstance(x, torch.Tensor) else x for name, x in given.items()}
    native.attend(**given, portable=portable)(3)
    assert same(given["out"], by_reference(twin))
    assert same(given["keys"], twin["keys"])
    assert same(given["values"], twin["values"])


@pytest.mark.parametrize(("norms", "window"), [(False, None), (True, 20)])
def test_attention_is_softmax_attention(norms: bool, window: int | None, generator: torch.Generator) -> None:
    given = attention(generator, 12, 3, norms, window)
    kernels.attend(**given)(3)
    assert given["out"].isfinite().all()
    for row, (slot, position) in enumerate(zip(given["slots"], given["positions"].tolist(), strict=True)):
        begin = 0 if window is None else max(0, position + 1 - window)
        keys = given["keys"][slot].transpose(2, 3).flatten(1, 2)[:, begin : position + 1]
        values = given["values"][slot, :, begin : position + 1, :12]
        query = given["found"][row].view(-1, 12)[:6]
        if norms:
            query = F.rms_norm(query, (12,), given["query_norm"], 1e-6)
        first, second = query.chunk(2, -1)
        cosine, sine = given["cosine"][position], given["sine"][position]
        query = torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)
        both = (x.repeat_interleave(3, 0)[None] for x in (keys, values))
        expected = F.scaled_dot_product_attention(query[None, :, None], *both)
        assert torch.allclose(given["out"][row], expected.flatten(), atol=1e-5)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_row_does_not_know_the_others(number: int, generator: torch.Generator) -> None:
    given = attention(generator, 16, 2, True, None)
    kernels.attend(**given)(3)
    alone = {**given, "out": torch.empty(3, 64)}
    kernels.attend(**alone)(number)
    assert same(alone["out"][:number], given["out"][:number])


@BUILT
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("found", torch.zeros(3, 96)),
        ("slots", torch.zeros(2, dtype=torch.long)),
        ("positions", torch.zeros(3)),
        ("cosine", torch.zeros(80, 7)),
        ("sine", torch.zeros(79, 8)),
        ("keys", torch.zeros(4, 2, 5, 16, 8)),
        ("values", torch.zeros(4, 2, 79, 16)),
        ("query_norm", None),
        ("key_norm", torch.zeros(15)),
        ("window", -1),
        ("out", torch.zeros(3, 65)),
        ("out", torch.zeros(64, 3).t()),
    ],
    ids=str,
)
def test_buffers_that_do_not_fit_are_refused(name: str, wrong: Any, generator: torch.Generator) -> None:
    with pytest.raises(FormatError, match="Attend"):
        native.attend(**{**attention(generator, 16, 2, True, None), name: wrong})


@BUILT
@pytest.mark.parametrize(("name", "value"), [("slots", 4), ("slots", -1), ("positions", 80), ("positions", -1)])
def test_no_call_leaves_its_buffers(name: str, value: int, generator: torch.Generator) -> None:
    given = attention(generator, 16, 2, True, None)
    run = native.attend(**given)
    with pytest.raises(ValueError, match="rows"):
        run(4)
    given[name][1] = value
    with pytest.raises(ValueError, match="no such"):
        run(3)
