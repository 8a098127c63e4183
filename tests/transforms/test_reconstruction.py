"""The gap between rotations and affine maps, on normal numbers with four loud neighbors: MXFP4, blocks of 32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from octavo.transforms.activations import activation_format
from octavo.transforms.affine import Affine, LearnedMap, affine, orthogonal
from octavo.transforms.hadamard import hadamard_matrix
from octavo.transforms.reconstruction import Fitting, fit_map, reconstruction_error
from octavo.transforms.rotation import random_orthogonal

SIZE, LOUD = 128, slice(40, 44)
MXFP4 = activation_format("mxfp4")


def loudness() -> Tensor:
    sigma = torch.ones(SIZE)
    sigma[LOUD] = 30
    return sigma


@pytest.fixture(scope="module")
def values() -> Tensor:
    return torch.randn(8192, SIZE, generator=torch.Generator().manual_seed(7)) * loudness()


def error(values: Tensor, matrix: Tensor, rule: str = "floor") -> float:
    return float(reconstruction_error(values, affine(matrix).to(torch.float32), MXFP4, rule))


def test_fixed_maps(values: Tensor) -> None:
    whole, blocks, sigma = hadamard_matrix(SIZE), hadamard_matrix(SIZE, 32), loudness().double()
    spread, turned = torch.diag(sigma**-0.5), random_orthogonal(SIZE, torch.Generator().manual_seed(2))
    for matrix, expected in (
        (torch.eye(SIZE), 0.602),
        (whole, 0.3625),
        (blocks, 0.374),
        (turned, 0.386),
        (torch.diag(1 / sigma), 0.387),
        (spread, 0.446),
        (blocks @ spread, 0.0885),
        (whole @ spread, 0.0585),
    ):
        # The four channels' own sample decides the third digit.
        assert error(values, matrix) == pytest.approx(expected, rel=0.04)
    assert error(values, whole @ spread, "ceil") == pytest.approx(0.051, rel=0.02)


@pytest.mark.parametrize("family", ["rotation", "qr", "lu"])
def test_learned_affine_maps_pass_the_floor_of_rotations(family: str, values: Tensor) -> None:
    map = LearnedMap(family, hadamard_matrix(SIZE))
    generator = torch.Generator().manual_seed(3)
    fit_map(values[4096:], map, MXFP4, generator, fitting=Fitting(steps=150, rate=0.03, rows=256))
    found = float(reconstruction_error(values[:4096], map.affine(), MXFP4).detach())
    if family == "rotation":
        assert 0.32 < found < 0.3625
    else:
        assert found < 0.07
    assert abs(float(map.log_determinant().detach())) < 0.01


@pytest.mark.parametrize("power", [-3, 5])
def test_a_power_of_two_changes_nothing(power: int, values: Tensor, generator: torch.Generator) -> None:
    matrix = hadamard_matrix(SIZE).float() @ torch.diag(1 + torch.rand(SIZE, generator=generator))
    inverse = torch.linalg.inv(matrix)
    plain = reconstruction_error(values, Affine(matrix, inverse), MXFP4)
    scaled = reconstruction_error(values, Affine(matrix * 2.0**power, inverse * 2.0**-power), MXFP4)
    assert torch.equal(plain, scaled)


def test_whole_and_block_transforms_coincide_where_a_block_is_the_vector(generator: torch.Generator) -> None:
    values = torch.randn(64, 32, generator=generator)
    errors = [
        reconstruction_error(values, orthogonal(hadamard_matrix(32, block).float()), MXFP4) for block in (None, 32)
    ]
    assert torch.equal(*errors)
