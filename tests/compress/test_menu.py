"""Widths for groups of columns: what is offered for a tensor, and that its figures are those of what is then stored."""

from __future__ import annotations

import pytest
import torch

from octavo.compress.menu import CHUNK, WIDTHS, menu, plain
from octavo.formats import Format, Importance


@pytest.fixture
def case(generator: torch.Generator) -> tuple[torch.Tensor, Importance]:
    """A matrix whose columns differ in importance by orders of magnitude, not in order."""
    weight = 0.02 * torch.randn(96, 200, generator=generator)
    column = torch.exp(2 * torch.randn(200, generator=generator))
    return weight, Importance(torch.exp(torch.randn(96, generator=generator)), column)


def loss(format: Format, weight: torch.Tensor, importance: Importance) -> float:
    error = (format.fake_quantize(weight, importance) - weight).square()
    return 0.5 * float(importance.row @ error @ importance.column)


def test_sizes_are_exact_and_losses_those_of_what_is_stored(case: tuple[torch.Tensor, Importance]) -> None:
    weight, importance = case
    found = menu(weight.shape, weight, importance, 1.0)
    assert found.formats[: len(WIDTHS)] == plain()
    assert len(found.formats) > 2 * len(WIDTHS)
    for text, size, predicted in zip(found.formats, found.sizes, found.losses, strict=True):
        format = Format.parse(text)
        assert size == format.quantize(weight, importance).stored_bits
        # A group's own codebook fits it better than the whole tensor's, by which it was judged.
        assert loss(format, weight, importance) == pytest.approx(predicted, rel=0.5)


def test_mixtures_lose_less_than_one_width_of_the_same_size(case: tuple[torch.Tensor, Importance]) -> None:
    weight, importance = case
    found = menu(weight.shape, weight, importance, 1.0)
    choices = list(zip(found.sizes, found.losses, strict=True))
    for size, predicted in choices[2:6]:
        assert min(other for smaller, other in choices if smaller <= size) < 0.8 * predicted


def test_wider_groups_come_first_and_are_whole_chunks(case: tuple[torch.Tensor, Importance]) -> None:
    weight, importance = case
    for text in menu(weight.shape, weight, importance, 1.0).formats[len(WIDTHS) :]:
        element = Format.parse(text).element
        levels = [member.levels for member in element.elements]
        assert levels == sorted(levels, reverse=True)
        assert all(count % CHUNK == 0 for _, count in element.first)
        assert sum(count for _, count in element.first) < 200


def test_a_tensor_that_nothing_depends_on_is_offered_one_width() -> None:
    found = menu((4, 64), torch.zeros(4, 64), Importance(torch.ones(4), torch.ones(64)), 1.0)
    assert found.formats == plain()
    assert max(found.losses) == 0
