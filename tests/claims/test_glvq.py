"""The checkable statements of "Learning Grouped Lattice Vector Quantizers for Low-Bit LLM Compression" (2510.20984)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from octavo.compress.rounding.error_feedback import Elimination, cost, eliminate
from octavo.compress.rounding.layers import quantize_with_feedback
from octavo.formats import Importance, parse
from octavo.formats.lattice import learning

ROWS, COLUMNS = 192, 256


def inputs(generator: torch.Generator) -> Elimination:
    """Of inputs that have much in common and differ in size."""
    mixing = torch.randn(COLUMNS, COLUMNS, generator=generator) / COLUMNS**0.5 + torch.eye(COLUMNS)
    sizes = torch.exp(0.5 * torch.randn(COLUMNS, generator=generator))
    rows = torch.randn(2000, COLUMNS, generator=generator) @ mixing * sizes
    return eliminate(rows.T @ rows / len(rows), 0.01)


def weights(generator: torch.Generator) -> Tensor:
    """Normal, rows of different size."""
    return torch.randn(ROWS, COLUMNS, generator=generator) * torch.exp(0.4 * torch.randn(ROWS, 1, generator=generator))


def heavy(rows: int, columns: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).laplace(size=(rows, columns))).float()


@pytest.mark.parametrize("bits", [2, 3])
def test_with_feedback_it_beats_scalars_with_feedback(bits: int, generator: torch.Generator) -> None:
    """Relative error of the outputs times 2^bits, every stored bit counted."""
    elimination, matrix = inputs(generator), weights(generator)

    def figure(text: str) -> float:
        quantized = quantize_with_feedback(parse(text), matrix, torch.ones(ROWS), elimination)
        lost = cost(quantized.dequantize() - matrix, elimination) / cost(matrix, elimination)
        return math.sqrt(lost) * 2**quantized.bits_per_weight

    lattice = figure(f"glvq(d=8)@{bits}")
    scalars = [f"int@{bits} b64 search:s8", f"lloyd@{bits} b64 search:s8", f"lloyd@{bits} channel search:bf16"]
    assert lattice < 0.95 * min(figure(text) for text in scalars)


def test_feedback_helps_it_as_it_helps_scalars(generator: torch.Generator) -> None:
    elimination, matrix, format = inputs(generator), weights(generator), parse("glvq(d=8)@2")
    own = Importance(torch.ones(ROWS), elimination.moments.diagonal())
    without = cost(format.fake_quantize(matrix, own) - matrix, elimination)
    fed_back = quantize_with_feedback(format, matrix, torch.ones(ROWS), elimination).dequantize()
    assert cost(fed_back - matrix, elimination) < 0.75 * without


def test_companding_helps_where_tails_are_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    """More so with more bits."""
    matrix, gains = heavy(256, 128, 0), []
    for bits in (2, 3, 4):
        format = parse(f"glvq(d=8)@{bits} tensor absmax:fp32")
        companded = float((format.fake_quantize(matrix) - matrix).norm())
        with monkeypatch.context() as without:
            without.setattr(learning, "MUS", learning.MUS[:1])
            without.setattr(learning, "LARGEST_MU", learning.MUS[0])
            plain = float((format.fake_quantize(matrix) - matrix).norm())
        gains.append(plain / companded)
    assert gains[0] > 1.01
    assert gains[2] > gains[1] > 1.04


def test_a_learned_basis_helps_where_weights_are_correlated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbors with a correlation of 0.9; without, learning has next to nothing to find."""
    draws = torch.from_numpy(np.random.default_rng(1).standard_normal((512, 128))).float()
    related = draws.clone()
    for column in range(1, 128):
        related[:, column] = 0.9 * related[:, column - 1] + math.sqrt(1 - 0.81) * draws[:, column]
    scalar, lattice = parse("lloyd@2 tensor search:fp32"), parse("glvq(d=8)@2 tensor rms:fp32")
    for matrix, most in ((related, 0.8), (draws, 1.0)):
        ratio = (lattice.fake_quantize(matrix) - matrix).norm() / (scalar.fake_quantize(matrix) - matrix).norm()
        assert ratio < most
    assert ratio > 0.9


def test_unequal_widths_help_where_groups_differ() -> None:
    matrix = heavy(32, 256, 2)
    differing = Importance(torch.ones(32), torch.tensor([30.0, 0.03]).repeat_interleave(128))
    alike = Importance(torch.ones(32), torch.ones(256))

    def loss(text: str, known: Importance) -> float:
        quantized = parse(text).quantize(matrix, known)
        assert quantized.parts["codes"].numel() * 8 == 2 * matrix.numel()
        return float(((quantized.dequantize() - matrix).square() * known.matrix()).sum())

    assert loss("glvq(d=8,widths=unequal)@2", differing) < 0.6 * loss("glvq(d=8)@2", differing)
    assert loss("glvq(d=8,widths=unequal)@2", alike) == loss("glvq(d=8)@2", alike)
