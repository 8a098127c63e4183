"""Grouped lattices: companding, integer least squares, learning, unequal widths, and what degenerates."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from octavo.base.errors import CheckpointError, FormatError
from octavo.formats import Importance, parse
from octavo.formats.lattice.companded import CompandedLattice, top_of
from octavo.formats.lattice.companding import compand, slope
from octavo.formats.lattice.grouped import GroupedLattices
from octavo.formats.lattice.k_best import k_best
from octavo.formats.lattice.learning import CONDITION, Sample, first_lattice, learn, repaired
from octavo.formats.lattice.metrics import vector_metrics
from octavo.formats.lattice.widths import exchanged
from octavo.formats.tensor import QuantizedTensor
from octavo.kernels.reference.lattice import expand

ONE = torch.ones(1, 1, 1)
SEEDS = st.integers(0, 10**6)


def correlated(count: int, dimension: int, seed: int, rho: float = 0.9) -> Tensor:
    """Normal vectors of a first-order autoregression, of unit variance."""
    steps = torch.arange(dimension)
    moments = rho ** (steps[:, None] - steps).abs().double()
    draws = torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (draws @ torch.linalg.cholesky(moments).T).float()


def sample_of(vectors: Tensor) -> Sample:
    return Sample(vectors, torch.eye(vectors.shape[1]).expand(len(vectors), -1, -1))


@pytest.mark.parametrize("mu", [1e-8, 1e-3, 1.0, 255.0])
def test_companding_is_odd_rising_and_undone(mu: float) -> None:
    law, values = torch.tensor(mu, dtype=torch.float64), torch.linspace(-1, 1, 2001, dtype=torch.float64)
    companded = compand(values, law)
    torch.testing.assert_close(expand(companded, law), values, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        expand(compand(values.float(), law.float()), law.float()), values.float(), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(compand(-values, law), -companded)
    assert bool((companded.diff() > 0).all())
    assert companded[[0, 1000, 2000]].tolist() == pytest.approx([-1, 0, 1], abs=1e-15)
    if mu < 1e-7:
        torch.testing.assert_close(companded, values, rtol=1e-7, atol=0)


def test_slope_is_the_derivative_of_expanding() -> None:
    law = torch.tensor(7.0, dtype=torch.float64)
    values = torch.linspace(-2, 2, 41, dtype=torch.float64).requires_grad_()
    (inverse,) = torch.autograd.grad(compand(values, law).sum(), values)
    torch.testing.assert_close(slope(values.detach(), law), 1 / inverse)


@given(SEEDS, st.integers(1, 3), st.integers(2, 4))
def test_with_all_points_kept_the_nearest_is_found(seed: int, bits: int, dimension: int) -> None:
    """Against a search through the box, where no coordinate leaves the neighbors of its aim."""
    draws = torch.Generator().manual_seed(seed)
    factor = torch.eye(dimension) + 0.2 * torch.randn(dimension, dimension, generator=draws)
    gram = (factor.T @ factor)[None].double()
    center = (2 * torch.rand(100, dimension, generator=draws).double() - 1) * top_of(bits)
    every = torch.tensor(list(product(np.arange(2**bits) - top_of(bits), repeat=dimension)), dtype=torch.float64)

    def errors(points: Tensor) -> Tensor:
        return (((points - center[:, None]) @ gram) * (points - center[:, None])).sum(-1)

    found = k_best(gram, center, top_of(bits), 3**dimension)
    own = errors(found)
    best, least = own.min(1).values, errors(every).min(1).values
    assert bool((best >= least - 1e-9).all())
    assert float((best <= least * (1 + 1e-5) + 1e-9).double().mean()) >= 0.8
    torch.testing.assert_close(own[:, 0], best, rtol=1e-4, atol=1e-6)
    assert float(found.abs().max()) <= top_of(bits)
    babai = k_best(gram, center, top_of(bits), 1)
    assert bool(
        (
            best <= torch.einsum("npi,ij,npj->n", *[babai - center[:, None], gram[0], babai - center[:, None]]) + 1e-9
        ).all()
    )


@given(st.floats(0.01, 3.0), st.integers(1, 8), SEEDS)
def test_a_scaled_identity_without_companding_is_the_uniform_quantizer(step: float, bits: int, seed: int) -> None:
    lattice = CompandedLattice(step * torch.eye(8), torch.tensor(1e-8))
    vectors = torch.randn(50, 8, generator=torch.Generator().manual_seed(seed)) * step * 2**bits / 4
    points, _ = lattice.nearest(vectors, torch.eye(8)[None], bits, kept=1)
    expected = ((vectors / step - 0.5).round() + 0.5).clamp(-top_of(bits), top_of(bits))
    clear = (vectors / step - (vectors / step).round()).abs() > 1e-3
    assert torch.equal(points[clear], expected[clear])
    torch.testing.assert_close(lattice.values(points), points * step, rtol=1e-5, atol=0)


@given(SEEDS, st.integers(1, 4), st.sampled_from([1e-3, 1.0, 30.0]))
def test_every_point_is_found_for_its_own_values(seed: int, bits: int, mu: float) -> None:
    draws = torch.Generator().manual_seed(seed)
    basis = repaired(torch.eye(8) + 0.2 * torch.randn(8, 8, generator=draws)) / 2**bits
    lattice = CompandedLattice(basis, torch.tensor(mu))
    points = torch.randint(0, 2**bits, (64, 8), generator=draws) - top_of(bits)
    found, errors = lattice.nearest(lattice.values(points), torch.eye(8)[None], bits, kept=8)
    assert torch.equal(found, points)
    assert float(errors.max()) < 1e-6


def test_high_rate_errors_of_e8_are_those_of_theory(generator: torch.Generator) -> None:
    """Babai rounding |G|²/12d = 0.1875 for the standard basis, nearest plane 0.1066, the exact point 0.0717."""
    from octavo.formats.lattice.nearest import LATTICES

    basis = torch.from_numpy(LATTICES["e8"].basis.T.copy())
    vectors = torch.rand(20_000, 8, generator=generator) * 8 - 4
    center = torch.linalg.solve(basis, vectors.T).T
    babai = (center.round() - center) @ basis.T
    assert float(babai.square().mean()) == pytest.approx(float(basis.square().sum()) / 96, rel=0.02)
    lattice = CompandedLattice(basis, torch.tensor(1e-8))
    errors = [float(lattice.nearest(vectors, torch.eye(8)[None], 8, kept)[1].mean()) / 8 for kept in (1, 8, 32)]
    diagonal = torch.linalg.qr(basis.double()).R.diagonal()
    assert errors[0] == pytest.approx(float(diagonal.square().sum()) / 96, rel=0.02)
    assert errors[2] == pytest.approx(0.07168, rel=0.02)
    assert errors[2] <= errors[1] < 0.08 < errors[0]


def test_gradients_are_those_of_differences(generator: torch.Generator) -> None:
    vectors = torch.randn(30, 8, generator=generator, dtype=torch.float64)
    factors = torch.randn(30, 8, 8, generator=generator, dtype=torch.float64)
    points = torch.randint(-2, 2, (30, 8), generator=generator) + 0.5
    basis = torch.eye(8, dtype=torch.float64) * 0.5 + 0.1 * torch.randn(8, 8, generator=generator, dtype=torch.float64)

    def loss(basis: Tensor, log_mu: Tensor) -> Tensor:
        lattice = CompandedLattice(basis, log_mu.exp())
        difference = lattice.values(points.double()) - vectors
        return torch.einsum("ni,nij,nj->n", difference, factors @ factors.mT, difference).mean()

    log_mu = torch.tensor(1.0, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(loss, (basis.requires_grad_(), log_mu))
    sample = Sample(vectors.float(), (factors @ factors.mT).float())
    with torch.no_grad():
        found = sample.loss(CompandedLattice(basis.float(), log_mu.exp().float()), points)
        assert float(found) == pytest.approx(float(loss(basis, log_mu)), rel=1e-5)


def test_the_loss_of_moments_is_that_of_inputs(generator: torch.Generator) -> None:
    """eᵀ M e with M = X Xᵀ of a vector's inputs is the squared error of its outputs."""
    inputs = torch.randn(8, 40, generator=generator)
    vectors = torch.randn(100, 8, generator=generator)
    lattice = CompandedLattice(0.5 * torch.eye(8), torch.tensor(1.0))
    metric = inputs @ inputs.T
    points, errors = lattice.nearest(vectors, metric[None], 2, 8)
    outputs = ((lattice.values(points) - vectors) @ inputs).square().sum(1)
    torch.testing.assert_close(errors, outputs, rtol=1e-4, atol=1e-5)
    assert float(Sample(vectors, metric.expand(100, 8, 8)).loss(lattice, points)) == pytest.approx(
        float(outputs.mean()), rel=1e-5
    )


@pytest.mark.parametrize(("bits", "expected"), [(2, 0.255), (3, 0.139)])
def test_correlated_vectors_get_the_basis_of_theory(bits: int, expected: float) -> None:
    """Σ^(1/4) times a Hadamard matrix: relative RMS error by simulation; a scaled identity has 0.345 and 0.194."""
    vectors = correlated(2048, 8, 1)
    lattice, loss = learn(sample_of(vectors), bits)
    assert math.sqrt(loss / 8) < expected * 1.02
    fresh = correlated(4096, 8, 2)
    errors = lattice.nearest(fresh, torch.eye(8)[None], bits, 8)[1]
    assert math.sqrt(float(errors.mean()) / 8) < expected * 1.05


def test_learning_never_ends_worse_than_it_began(generator: torch.Generator) -> None:
    normal = torch.randn(512, 8, generator=generator)
    sample = sample_of(normal * normal.abs())
    start = first_lattice(sample, 2)
    before = float(start.nearest(sample.vectors, sample.metrics, 2, 4)[1].mean())
    lattice, loss = learn(sample, 2)
    assert loss <= before
    assert float(lattice.nearest(sample.vectors, sample.metrics, 2, 4)[1].mean()) == pytest.approx(loss, rel=1e-5)


def test_learning_works_without_gradients_and_in_inference_mode(generator: torch.Generator) -> None:
    weights = torch.randn(6, 40, generator=generator)
    expected = parse("glvq(d=8)@2").quantize(weights)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            found = parse("glvq(d=8)@2").quantize(weights)
        assert all(torch.equal(found.parts[name], part) for name, part in expected.parts.items())


def test_a_basis_that_degenerates_is_repaired_or_refused() -> None:
    flat = torch.eye(8)
    flat[1] = flat[0] * (1 + 1e-7)
    singular = torch.linalg.svdvals(repaired(flat))
    assert float(singular.max() / singular.min()) <= 1.01 * CONDITION**2
    sound = torch.eye(8) + 0.1
    assert torch.equal(repaired(sound), sound)
    for hopeless in (torch.full((8, 8), torch.nan), torch.zeros(8, 8)):
        with pytest.raises(FormatError, match="degenerated"):
            repaired(hopeless)


@pytest.mark.parametrize(
    "case", ["one weight", "all alike", "one huge", "tiny", "large", "two values", "rank one", "one column"]
)
def test_weights_that_degenerate_give_finite_values(case: str) -> None:
    draws = torch.Generator().manual_seed(0)
    weights = torch.randn(12, 64, generator=draws) * 0.02
    if case == "one weight":
        weights = torch.zeros(12, 64).index_put((torch.tensor(3), torch.tensor(5)), torch.tensor(1.0))
    elif case == "all alike":
        weights = torch.full((12, 64), 0.3)
    elif case == "one huge":
        weights[2, 7] = 1e6
    elif case == "tiny":
        weights = weights * 1e-30
    elif case == "large":
        weights = weights * 1e15
    elif case == "two values":
        weights = weights.sign()
    elif case == "rank one":
        weights = torch.outer(weights[:, 0], weights[0])
    else:
        weights = weights[:, :1]
    for text in ("glvq(d=8)@2", "glvq(d=8)@3 tensor absmax:fp32", "lattice-e8@2 b64 search:s8"):
        values = parse(text).fake_quantize(weights)
        assert bool(values.isfinite().all())
        assert float((values - weights).norm()) <= float(weights.norm())


def test_metrics_are_what_errors_cost_when_later_columns_make_up_for_them(generator: torch.Generator) -> None:
    """For columns B and those after them, C: H_BB - H_BC H_CC⁻¹ H_CB; with nothing after them, H_BB."""
    factor = torch.randn(24, 60, generator=generator, dtype=torch.float64)
    moments = factor @ factor.T / 60
    upper = torch.linalg.cholesky(torch.linalg.inv(moments), upper=True)
    found = vector_metrics(Importance(torch.ones(4), torch.ones(24), upper.float()), 24, 8, torch.device("cpu"))
    expected = []
    for start in (0, 8, 16):
        own, after = slice(start, start + 8), slice(start + 8, 24)
        across = moments[own, after]
        expected.append(moments[own, own] - across @ torch.linalg.inv(moments[after, after]) @ across.T)
    known = torch.stack(expected)
    torch.testing.assert_close(found.double(), known / known.diagonal(dim1=1, dim2=2).mean(), rtol=1e-3, atol=1e-4)


def test_columns_that_fill_up_a_vector_cost_nothing() -> None:
    found = vector_metrics(Importance(torch.ones(2), torch.arange(1.0, 11.0)), 10, 8, torch.device("cpu"))
    assert torch.equal(found[1].diagonal(), torch.tensor([9.0, 10, 0, 0, 0, 0, 0, 0]))
    upper = torch.eye(10)
    full = vector_metrics(Importance(torch.ones(2), torch.ones(10), upper), 10, 8, torch.device("cpu"))
    assert not bool(full[1, 2:].any())


@settings(max_examples=30)
@given(SEEDS, st.integers(1, 9))
def test_exchanges_keep_the_mean_and_never_lose(seed: int, groups: int) -> None:
    draws = np.random.default_rng(seed)
    losses = (
        np.exp(2 * draws.standard_normal(groups))[:, None]
        * np.array([4.0, 1.0, 0.25])
        * draws.uniform(0.8, 1.2, (groups, 3))
    )
    sizes = draws.choice([64, 128], groups).tolist()
    widths = exchanged(losses, sizes)
    assert sum(width * size for width, size in zip(widths, sizes, strict=True)) == 0
    assert set(widths) <= {-1, 0, 1}
    assert sum(losses[group, width + 1] for group, width in enumerate(widths)) <= losses[:, 1].sum()
    if len(set(sizes)) == 1 and groups < 5:
        best = min(
            sum(losses[group, width + 1] for group, width in enumerate(choice))
            for choice in product((-1, 0, 1), repeat=groups)
            if sum(choice) == 0
        )
        assert sum(losses[group, width + 1] for group, width in enumerate(widths)) <= 1.3 * best


def test_unequal_widths_are_stored_counted_and_checked(generator: torch.Generator) -> None:
    weights = torch.randn(16, 3 * 128 + 40, generator=generator) * 0.02
    column = torch.cat([torch.full((128,), 100.0), torch.ones(128), torch.full((128,), 0.01), torch.ones(40)])
    format = parse("glvq(d=8,widths=unequal)@2")
    quantized = format.quantize(weights, Importance(torch.ones(16), column))
    assert quantized.parts["widths"].tolist() == [3, 2, 1, 2]
    assert quantized.stored_bits == format.stored_bits((16, 424))
    assert quantized.parts["codes"].numel() * 8 == 2 * 16 * 424
    error = (quantized.dequantize() - weights).square().mean(0)
    assert float(error[:128].mean()) < float(error[128:256].mean()) < float(error[256:384].mean())
    damaged = {**quantized.parts, "widths": torch.tensor([3, 3, 1, 2], dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match="have not the mean 2"):
        QuantizedTensor(format, quantized.shape, damaged).dequantize()
    damaged = {**quantized.parts, "companding": -quantized.parts["companding"]}
    with pytest.raises(CheckpointError, match="not above 0"):
        QuantizedTensor(format, quantized.shape, damaged).dequantize()


def test_rows_are_those_of_the_whole(generator: torch.Generator) -> None:
    quantized = parse("glvq(d=8,widths=unequal)@2").quantize(torch.randn(20, 300, generator=generator))
    element, whole = quantized.format.element, quantized.dequantize()
    assert isinstance(element, GroupedLattices)
    for index in (torch.tensor([3, 0, 19, 3]), slice(4, 9)):
        torch.testing.assert_close(element.take_rows(quantized, index), whole[index], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("glvq", "no whole number of bits"),
        ("glvq(levels=3)", "no whole number of bits"),
        ("glvq(d=7)@2", "d is one of 8, 16, 32"),
        ("glvq(d=x)@2", "not a whole number"),
        ("glvq(e=8)@2", "no argument"),
        ("glvq(widths=odd)@2", "no widths"),
        ("glvq(widths=unequal)@1", "bits are 2 to 7"),
        ("glvq@2 b64 search:s8", "learns a basis"),
        ("glvq@2 b12 rms:bf16", "cut vectors of 8"),
        ("glvq@2 ans", "fixed width"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse(text)


def test_defaults_are_filled_in() -> None:
    assert str(parse("glvq@2")) == "glvq(d=8)@2 channel rms:u8"
    assert str(parse("glvq(widths=equal)@3 tensor")) == "glvq(d=8)@3 tensor rms:u8"
    assert replace(parse("glvq@2").element, unequal=True) == parse("glvq(widths=unequal)@2").element
