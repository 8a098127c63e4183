"""Paths through a trellis of two quantizers: C++ against torch, and torch against arithmetic by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from octavo import kernels
from octavo.base.errors import FormatError
from octavo.kernels import checks, cpu, reference
from octavo.kernels.trellis import POLYNOMIALS, polynomials

STATES = tuple(POLYNOMIALS)
needs_cpp = pytest.mark.skipif(bool(cpu.MISSING), reason=f"the C++ kernels are not built: {cpu.MISSING}")
both_loops = pytest.mark.parametrize("portable", [False, True], ids=["fastest", "portable"])


def inputs(
    rows: int, columns: int, generator: torch.Generator, contexts: int = 3, largest: int = 9
) -> tuple[Tensor, Tensor, Tensor]:
    scaled = 5 * torch.randn(rows, columns, generator=generator)
    context = torch.randint(contexts, (rows, columns), generator=generator, dtype=torch.uint8)
    cost = torch.rand(2, contexts, largest + 1, generator=generator).cumsum(2)
    return scaled, context, cost


def path_cost(scaled: Tensor, context: Tensor, cost: Tensor, indices: Tensor, states: int) -> Tensor:
    """Of each column, float64."""
    values = reference.trellis_values(indices, states).double()
    quantizers = reference.trellis_quantizers(indices, states).long()
    rate = cost.double()[quantizers, context.long(), indices.long().abs()]
    return ((scaled.double() - values).square() + rate).sum(0)


def test_values_and_quantizers_by_hand() -> None:
    # With 4 states: s' = (s >> 1) ^ (2 if s & 1) ^ (k & 1).
    indices = torch.tensor([[1], [-3], [2], [0], [-1]], dtype=torch.int8)
    states = [0, 1, 3, 3, 3]
    assert reference.trellis_quantizers(indices, 4).flatten().tolist() == [state & 1 for state in states]
    assert reference.trellis_values(indices, 4).flatten().tolist() == [2, -5, 3, 0, -1]


@pytest.mark.parametrize("states", STATES)
def test_every_state_is_reached_from_two(states: int) -> None:
    h0, h1 = polynomials(states)
    reached = [(s >> 1) ^ (s & 1) * h0 ^ p * h1 for s, p in product(range(states), (0, 1))]
    assert sorted(reached) == sorted([*range(states), *range(states)])


@pytest.mark.parametrize("states", [4, 8])
def test_no_other_path_costs_less(states: int, generator: torch.Generator) -> None:
    scaled, context, cost = inputs(4, 3, generator, largest=4)
    found = path_cost(scaled, context, cost, reference.trellis_indices(scaled, context, cost, states), states)
    tried = torch.tensor(list(product(range(-4, 5), repeat=4)), dtype=torch.int8).T
    for column in range(3):
        weights, contexts = (t[:, column : column + 1].expand(-1, tried.shape[1]) for t in (scaled, context))
        least = path_cost(weights, contexts, cost, tried, states).min()
        # Only an index two steps below the second-nearest of its parity is not tried, and costs rise too little for it.
        assert found[column] == pytest.approx(float(least), abs=1e-5)


@needs_cpp
@both_loops
@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize("shape", [(1, 1), (200, 1), (130, 35), (65, 3), (0, 3), (3, 0)], ids=str)
def test_cpp_finds_the_same_path(
    shape: tuple[int, int], states: int, portable: bool, generator: torch.Generator
) -> None:
    scaled, context, cost = inputs(*shape, generator)
    if scaled.numel() > 4:
        scaled[-1, 0], scaled[0, 0], scaled[1, 0], scaled[2, 0] = 1e30, -torch.inf, 0.0, -0.0
    expected = reference.trellis_indices(scaled, context, cost, states)
    assert torch.equal(cpu.trellis_indices(scaled, context, cost, states, portable), expected)


@needs_cpp
@both_loops
def test_cpp_breaks_ties_alike(portable: bool) -> None:
    scaled = torch.arange(-300, 300).float().mul(0.5).view(60, 10)
    context = torch.zeros(60, 10, dtype=torch.uint8)
    cost = torch.zeros(2, 1, 41)
    for states in STATES:
        expected = reference.trellis_indices(scaled, context, cost, states)
        assert torch.equal(cpu.trellis_indices(scaled, context, cost, states, portable), expected)


@needs_cpp
@both_loops
@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize(("dtype", "reach"), [(torch.int8, 128), (torch.int16, 32768)], ids=str)
def test_cpp_decodes_alike(
    dtype: torch.dtype, reach: int, states: int, portable: bool, generator: torch.Generator
) -> None:
    indices = torch.randint(-reach, reach, (70, 37), generator=generator).to(dtype)
    assert torch.equal(cpu.trellis_values(indices, states, portable), reference.trellis_values(indices, states))
    assert torch.equal(cpu.trellis_quantizers(indices, states, portable), reference.trellis_quantizers(indices, states))


def test_columns_are_independent(generator: torch.Generator) -> None:
    scaled, context, cost = inputs(90, 20, generator)
    whole = kernels.trellis_indices(scaled, context, cost, 8)
    single = [kernels.trellis_indices(scaled[:, [j]], context[:, [j]], cost, 8) for j in range(20)]
    assert torch.equal(torch.cat(single, dim=1), whole)


@pytest.mark.parametrize("states", STATES)
def test_a_trellis_beats_rounding_by_what_it_says(states: int, generator: torch.Generator) -> None:
    """Bits of the 0.254 at high rate that are left: 0.089, 0.074, 0.062, 0.052, 0.043."""
    # Away from zero, which both quantizers have.
    scaled = 200 * torch.rand(4096, 128, generator=generator) + 20
    cost = torch.zeros(2, 1, 200)
    indices = kernels.trellis_indices(scaled, torch.zeros(4096, 128, dtype=torch.uint8), cost, states)
    error = (scaled - kernels.trellis_values(indices, states)).double().square().mean()
    # The bound of a quantizer of step 2 is 4/12 less 10 log10(2 pi e / 12) = 1.53 dB.
    bound = 4 / (2 * torch.pi * torch.e)
    left = float(0.5 * torch.log2(error / bound))
    assert left == pytest.approx({4: 0.089, 8: 0.074, 16: 0.062, 32: 0.052, 64: 0.043}[states], abs=0.003)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s, c, t: (s, c, t, 6), "no trellis of 6 states"),
        (lambda s, c, t: (s.double(), c, t, 8), "scaled weights are float64"),
        (lambda s, c, t: (s, c[:2], t, 8), "contexts are uint8 of shape"),
        (lambda s, c, t: (s, c, t[:1], 8), "costs are float32 of shape"),
        (lambda s, c, t: (s, c + 9, t, 8), "context is not below 3"),
        (lambda s, c, t: (s * torch.nan, c, t, 8), "weight is NaN"),
        (lambda s, c, t: (s, c, t * torch.inf, 8), "cost is NaN or infinite"),
    ],
)
def test_what_does_not_fit_is_refused(
    change: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor, int]],
    reason: str,
    generator: torch.Generator,
) -> None:
    with pytest.raises(FormatError, match=reason):
        checks.check_trellis_weights(*change(*inputs(4, 5, generator)))


def test_indices_of_other_dtypes_are_refused() -> None:
    for decode in (kernels.trellis_values, kernels.trellis_quantizers):
        with pytest.raises(FormatError, match="int64"):
            decode(torch.zeros(2, 2, dtype=torch.int64), 8)
