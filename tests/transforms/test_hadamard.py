"""Hadamard transforms are orthonormal, flat and fast matrices in disguise, for every size; rotations are rotations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.transforms.hadamard import hadamard_matrix, hadamard_transform, hartley, paley
from octavo.transforms.rotation import random_hadamard, random_orthogonal, rotation_of

PALEY = (12, 20, 24, 28, 36, 44, 60, 76, 140)


@given(size=st.integers(1, 130), block=st.none() | st.integers(1, 40))
def test_it_is_orthonormal_and_undone_by_its_inverse(size: int, block: int | None) -> None:
    matrix = hadamard_matrix(size, block)
    assert torch.allclose(matrix @ matrix.T, torch.eye(size).double(), atol=1e-12)
    rows = torch.randn(2, 3, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    there = hadamard_transform(rows, block)
    assert torch.allclose(there, rows @ matrix.T, atol=1e-12)
    assert torch.allclose(hadamard_transform(there, block, inverse=True), rows, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 64, 256, *PALEY, 48, 576, 1536])
def test_where_hadamard_matrices_are_known_all_entries_are_alike(size: int) -> None:
    entries = hadamard_matrix(size).abs() * size**0.5
    assert torch.allclose(entries, torch.ones(size, size).double(), atol=1e-12)


@pytest.mark.parametrize("size", [3, 5 * 16, 43, 7 * 64, 9])
def test_elsewhere_no_entry_is_large(size: int) -> None:
    assert hadamard_matrix(size).abs().max() * size**0.5 <= 2**0.5 + 1e-12


@pytest.mark.parametrize("order", PALEY)
def test_paley_matrices_are_signs_with_orthogonal_rows(order: int) -> None:
    matrix = paley(order)
    assert matrix is not None
    assert set(matrix.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order).double())


@pytest.mark.parametrize("order", [2, 18, 16, 52, 92])
def test_paley_says_where_it_has_none(order: int) -> None:
    assert paley(order) is None


def test_the_power_of_two_is_sylvester_s_matrix() -> None:
    step = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double() / 2**0.5
    expected = torch.ones(1, 1).double()
    for _ in range(6):
        expected = torch.kron(step, expected)
    assert torch.allclose(hadamard_matrix(64), expected, atol=1e-14)


def test_hartley_is_its_own_inverse() -> None:
    matrix = hartley(37)
    assert torch.equal(matrix, matrix.T)
    assert torch.allclose(matrix @ matrix, torch.eye(37).double(), atol=1e-13)


def test_a_block_as_wide_as_the_row_is_the_row() -> None:
    rows = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(hadamard_transform(rows, 32), hadamard_transform(rows))
    short = hadamard_transform(torch.eye(80), 32)
    assert torch.equal(short[64:, 64:].T, hadamard_matrix(16, dtype=torch.float32))
    assert not short[:64, 64:].any()


def test_narrow_dtypes_are_kept_and_computed_in_float32() -> None:
    rows = torch.randn(4, 96, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(hadamard_transform(rows), hadamard_transform(rows.float()).bfloat16())


def test_gradients_are_the_inverse_s() -> None:
    rows = torch.randn(2, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(hadamard_transform, (rows,))


@pytest.mark.parametrize("method", ["cayley", "expm"])
def test_rotations_are_proper_and_differentiable(method: str, generator: torch.Generator) -> None:
    free = torch.randn(2, 9, 9, generator=generator, dtype=torch.float64, requires_grad=True)
    rotation = rotation_of(free, method)
    assert torch.allclose(rotation @ rotation.mT, torch.eye(9).double().expand(2, -1, -1), atol=1e-12)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(2).double())
    assert torch.equal(rotation_of(torch.zeros(9, 9), method), torch.eye(9))
    assert torch.autograd.gradcheck(lambda m: rotation_of(m[:, :4, :4], method), (free,))


def test_the_two_rotations_agree_to_second_order(generator: torch.Generator) -> None:
    free = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    for size, bound in ((1e-2, 1e-5), (1e-3, 1e-8)):
        difference = rotation_of(size * free, "cayley") - rotation_of(size * free, "expm")
        assert difference.abs().max() < bound


def test_random_matrices_are_orthogonal_and_seeded() -> None:
    for draw in (random_orthogonal, random_hadamard):
        one, again = (draw(20, torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(one, again)
        assert torch.allclose(one @ one.T, torch.eye(20).double(), atol=1e-12)
        assert not torch.equal(one, draw(20, torch.Generator().manual_seed(4)))
