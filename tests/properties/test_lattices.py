"""Nearest points of fixed lattices against a search, Voronoi codes, and Z against the integers."""

from __future__ import annotations

from itertools import product

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.formats import Importance, parse
from octavo.formats.lattice.nearest import LATTICES, Lattice
from octavo.formats.lattice.voronoi import VoronoiCode

SEEDS = st.integers(0, 10**6)
NAMES = st.sampled_from(sorted(LATTICES))
CODES = [VoronoiCode(LATTICES[name], size) for name in ("d4", "e8") for size in (2, 4, 16, 256)]
CODES += [VoronoiCode(LATTICES["z"], size) for size in (4, 16, 256)]


def draws(count: int, dimension: int, seed: int) -> Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


def near_points(lattice: Lattice, vector: np.ndarray) -> np.ndarray:
    """All lattice points near a vector; no vector is farther than 1 from one of the lattice."""
    d = lattice.dimension
    whole = np.array(list(product((-1, 0, 1), repeat=d))) + np.round(vector)
    if lattice.name == "z":
        return whole
    found = [whole[whole.sum(1) % 2 == 0]]
    if lattice.name == "e8":
        halves = np.array(list(product((-0.5, 0.5), repeat=d))) + np.round(vector)
        found.append(halves[halves.sum(1) % 2 == 0])
    return np.concatenate(found)


@given(NAMES, SEEDS)
def test_nearest_points_are_those_of_a_search(name: str, seed: int) -> None:
    lattice = LATTICES[name]
    vectors = 3 * draws(4, lattice.dimension, seed)
    found = lattice.nearest(vectors).double().numpy()
    for vector, point in zip(vectors.double().numpy(), found, strict=True):
        candidates = near_points(lattice, vector)
        least = np.square(candidates - vector).sum(1).min()
        assert np.square(point - vector).sum() == pytest.approx(least, rel=1e-6)
        assert (np.abs(candidates - point).max(1) == 0).any()


@pytest.mark.parametrize("name", LATTICES)
def test_second_moments_are_those_of_the_tables(name: str, generator: torch.Generator) -> None:
    """Conway and Sloane, table 2.3: 0.08333, 0.07660, 0.07168."""
    lattice = LATTICES[name]
    vectors = 8 * torch.rand(100_000, lattice.dimension, generator=generator)
    moment = float((vectors - lattice.nearest(vectors)).square().mean()) / lattice.volume ** (2 / lattice.dimension)
    assert moment == pytest.approx(lattice.second_moment, rel=5e-3)


@pytest.mark.parametrize(("name", "volume", "shortest"), [("z", 1, 2), ("d4", 2, 24), ("e8", 1, 240)])
def test_bases_span_their_lattices(name: str, volume: float, shortest: int) -> None:
    lattice = LATTICES[name]
    assert lattice.volume == pytest.approx(volume)
    assert np.array_equal(lattice.basis @ lattice.inverse, np.eye(lattice.dimension))
    assert np.array_equal(lattice.inverse, np.linalg.inv(lattice.basis.astype(np.float64)).astype(np.float32))
    for rows in (lattice.basis, lattice.shortest):
        points = torch.from_numpy(rows)
        assert torch.equal(lattice.nearest(points), points)
    assert len(np.unique(lattice.shortest, axis=0)) == shortest
    assert len(set(np.square(lattice.shortest).sum(1))) == 1


@pytest.mark.parametrize("name", ["d4", "e8"])
def test_no_code_point_lies_on_the_boundary_of_the_cell(name: str) -> None:
    lattice = LATTICES[name]
    products = lattice.shortest @ lattice.generic
    assert np.abs(products - np.round(products)).min() >= 1 / 32


@pytest.mark.parametrize("code", CODES, ids=lambda code: f"{code.lattice.name}-{code.size}")
def test_every_code_is_that_of_its_point(code: VoronoiCode, generator: torch.Generator) -> None:
    d = code.lattice.dimension
    digits = torch.randint(0, code.size, (500, d), generator=generator).to(torch.uint8)
    points = code.decode(digits)
    assert torch.equal(code.encode(points), digits)
    if d > 1:
        # Inside the cell: nearer to the origin than to any other point of the larger lattice.
        assert float((points @ torch.from_numpy(code.lattice.shortest).T).max()) < code.size


@pytest.mark.parametrize(("name", "size"), [("e8", 4), ("d4", 16), ("z", 256)])
def test_points_that_are_listed_are_those_that_are_computed(name: str, size: int, generator: torch.Generator) -> None:
    code = VoronoiCode(LATTICES[name], size)
    digits = torch.randint(0, size, (300, code.lattice.dimension), generator=generator).to(torch.uint8)
    assert torch.equal(code.decode(digits), code._computed(digits))


@pytest.mark.parametrize("name", ["z", "d4"])
def test_different_codes_have_different_points(name: str) -> None:
    code = VoronoiCode(LATTICES[name], 4)
    every = torch.cartesian_prod(*[torch.arange(4)] * code.lattice.dimension).view(-1, code.lattice.dimension)
    assert len(torch.unique(code.decode(every.to(torch.uint8)), dim=0)) == 4**code.lattice.dimension


@pytest.mark.parametrize("size", [2, 4])
def test_a_code_is_nearly_as_good_as_a_search_through_all_points(size: int, generator: torch.Generator) -> None:
    """Also for vectors that lie far outside; inside the cell the nearest point is exact."""
    code = VoronoiCode(LATTICES["d4"], size)
    every = torch.cartesian_prod(*[torch.arange(size)] * 4).to(torch.uint8)
    points = code.decode(every)
    vectors = torch.randn(3000, 4, generator=generator) * size * 0.4
    least = torch.cdist(vectors.double(), points.double()).min(1).values.square()
    found = (vectors - code.decode(code.encode(vectors))).square().sum(1)
    assert float(found.mean()) < 1.01 * float(least.mean())
    exact = code.lattice.nearest(vectors + torch.from_numpy(code.lattice.generic)) - torch.from_numpy(
        code.lattice.generic
    )
    inside = (torch.cdist(exact.double(), points.double()).min(1).values < 1e-6).nonzero().flatten()
    assert len(inside) > 500
    torch.testing.assert_close(found[inside].double(), least[inside], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(
    "scaling", ["b64 absmax:bf16", "b64 search:s8", "b32 signmax:e4m3", "channel rms:fp16", "tensor absmean:fp32"]
)
def test_z_is_the_integer_format_value_for_value(bits: int, scaling: str) -> None:
    """The same scales, the same values, the same size; only the names of the codes differ."""
    weights = draws(40, 200, bits)
    weights[:8] = torch.randint(-40, 40, (8, 200), generator=torch.Generator().manual_seed(bits)) / 2  # ties
    weights[9] = 0
    known = Importance(draws(40, 1, 1)[:, 0].exp(), draws(200, 1, 2)[:, 0].exp())
    ours, theirs = parse(f"lattice-z@{bits} {scaling}"), parse(f"int@{bits} {scaling}")
    for importance in (None, known):
        lattice, integer = ours.quantize(weights, importance), theirs.quantize(weights, importance)
        assert torch.equal(lattice.dequantize(), integer.dequantize())
        assert lattice.parts["scales"].view(torch.uint8).equal(integer.parts["scales"].view(torch.uint8))
        assert lattice.stored_bits == integer.stored_bits == ours.stored_bits((40, 200))


def test_denser_lattices_lose_less_at_the_same_bits() -> None:
    weights = draws(64, 512, 3)
    errors = [
        float((parse(f"lattice-{name}@3 channel search:bf16").fake_quantize(weights) - weights).norm())
        for name in ("z", "d4", "e8")
    ]
    assert errors[2] < 0.95 * errors[1] < 0.95 * 0.95 * errors[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lattice-e8", "no whole number of bits"),
        ("lattice-e8(levels=3)", "no whole number of bits"),
        ("lattice-e8@2.5", "no whole number of bits"),
        ("lattice-e8(a=1)@2", "no whole number of bits"),
        ("lattice-z@1", "2 to 8 bits"),
        ("lattice-e9@2", "did you mean lattice-e8"),
        ("lattice-e8@2 b12", "cut vectors of 8"),
        ("lattice-e8@2 separable", "belong to grids"),
        ("lattice-e8@2 ans", "fixed width"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse(text)
