"""Affine maps: exact volumes and inverses, starts, gradients, and what is refused."""

from __future__ import annotations

import pytest
import torch

from octavo.base.errors import OctavoError
from octavo.transforms.affine import FAMILIES, Affine, LearnedMap, affine, checked
from octavo.transforms.hadamard import hadamard_matrix
from octavo.transforms.rotation import random_orthogonal


def moved(family: str, generator: torch.Generator, *heads: int, dtype: torch.dtype = torch.float64) -> LearnedMap:
    """A map whose parameters have all left zero."""
    start = hadamard_matrix(12).expand(*heads, 12, 12)
    map = LearnedMap(family, start, shifted=True, dtype=dtype)
    with torch.no_grad():
        for parameter in map.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return map


@pytest.mark.parametrize("family", FAMILIES)
def test_a_map_undoes_itself_and_knows_its_volume(family: str, generator: torch.Generator) -> None:
    map = moved(family, generator)
    found = map.affine()
    values = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    assert torch.allclose(found.undo(found(values)), values, atol=1e-10)
    assert torch.allclose(found.matrix @ found.inverse, torch.eye(12).double(), atol=1e-10)
    assert torch.allclose(torch.linalg.slogdet(found.matrix).logabsdet, map.log_determinant(), atol=1e-10)
    assert torch.equal(map.volume(), map.log_determinant().square())
    assert not torch.allclose(found.matrix, map.start)


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_is_good_to_a_hundred_thousandth(family: str, generator: torch.Generator) -> None:
    found = moved(family, generator, dtype=torch.float32).affine()
    values = torch.randn(64, 12, generator=generator)
    assert (found.undo(found(values)) - values).abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_map_is_its_start_until_it_learns(family: str) -> None:
    start = random_orthogonal(16, torch.Generator().manual_seed(1)).float()
    found = LearnedMap(family, start).affine()
    assert torch.equal(found.matrix, start)
    assert torch.equal(found.inverse, start.T)
    assert found.condition == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_are_maps_of_their_own(family: str, generator: torch.Generator) -> None:
    map = moved(family, generator, 3)
    found = map.affine()
    assert found.matrix.shape == (3, 12, 12)
    assert map.log_determinant().shape == (3,)
    expected = torch.eye(12).double().expand(3, -1, -1)
    assert torch.allclose(found.matrix @ found.inverse, expected, atol=1e-10)
    assert torch.allclose(torch.linalg.slogdet(found.matrix).logabsdet, map.log_determinant(), atol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_its_gradient(family: str, generator: torch.Generator) -> None:
    map = moved(family, generator)
    names, values = zip(*map.named_parameters(), strict=True)
    weight = torch.randn(12, 12, generator=generator, dtype=torch.float64)

    def function(*parameters: torch.Tensor) -> torch.Tensor:
        state = dict(zip(names, parameters, strict=True))
        found = torch.func.functional_call(_Maps(map), {f"map.{name}": value for name, value in state.items()}, ())
        return (weight * found.matrix).sum() + (weight * found.inverse).sum() + found.shift.sum()

    assert torch.autograd.gradcheck(function, values)


class _Maps(torch.nn.Module):
    def __init__(self, map: LearnedMap) -> None:
        super().__init__()
        self.map = map

    def forward(self) -> Affine:
        return self.map.affine()


def test_what_cannot_be_inverted_is_refused(generator: torch.Generator) -> None:
    matrix = torch.randn(8, 8, generator=generator)
    assert affine(matrix, limit=1e6).condition > 1
    for bad in (torch.zeros(8, 8), matrix * torch.tensor([1.0] * 7 + [1e-7]), matrix * torch.nan, matrix / 0):
        with pytest.raises(OctavoError, match="condition number"):
            affine(bad)
    with pytest.raises(OctavoError, match="condition number"):
        checked(Affine(torch.eye(4), torch.eye(4), torch.tensor([0.0, 0, 0, torch.inf])))
    with pytest.raises(OctavoError, match="choose one of rotation"):
        LearnedMap("shear", torch.eye(4))  # pyright: ignore[reportArgumentType]
