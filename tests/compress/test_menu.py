"""Widths for groups of columns: what is offered for a tensor, and that its figures are those of what is then stored."""

from __future__ import annotations

import pytest
import torch

from octavo.compress.menu import CHUNK, menu, plain
from octavo.formats import Format, Importance


@pytest.fixture(params=[96, 300], ids=["short columns", "long columns"])
def case(request: pytest.FixtureRequest, generator: torch.Generator) -> tuple[torch.Tensor, Importance]:
    """A matrix whose columns differ in importance by orders of magnitude, not in order."""
    weight = 0.02 * torch.randn(request.param, 200, generator=generator)
    column = torch.exp(2 * torch.randn(200, generator=generator))
    return weight, Importance(torch.exp(torch.randn(request.param, generator=generator)), column)


def loss(format: Format, weight: torch.Tensor, importance: Importance) -> float:
    error = (format.fake_quantize(weight, importance) - weight).square()
    return 0.5 * float(importance.row @ error @ importance.column)


def test_sizes_are_exact_and_losses_those_of_what_is_stored(case: tuple[torch.Tensor, Importance]) -> None:
    weight, importance = case
    found = menu(weight, importance)
    assert found.formats[: len(plain(weight.shape))] == plain(weight.shape)
    assert len(found.formats) > 2 * len(plain(weight.shape))
    for text, size, predicted in list(zip(found.formats, found.sizes, found.losses, strict=True))[::9]:
        format = Format.parse(text)
        assert size == format.quantize(weight, importance).stored_bits
        # A group's own codebook or curve fits it better, or worse where it is small, than those by which it was judged.
        assert loss(format, weight, importance) == pytest.approx(predicted, rel=0.5)


def test_mixtures_lose_less_than_one_width_of_the_same_size(case: tuple[torch.Tensor, Importance]) -> None:
    weight, importance = case
    found = menu(weight, importance)
    choices = list(zip(found.sizes, found.losses, strict=True))
    for size, predicted in choices[1:5]:
        assert min(other for smaller, other in choices if smaller <= size) < 0.8 * predicted


def test_wider_groups_come_first_and_are_whole_chunks(case: tuple[torch.Tensor, Importance]) -> None:
    weight, importance = case
    for text in menu(weight, importance).formats:
        if not text.startswith("columns"):
            continue
        element = Format.parse(text).element
        levels = [member.levels for member in element.elements]
        assert levels == sorted(levels, reverse=True)
        assert all(count % CHUNK == 0 for _, count in element.first)
        assert sum(count for _, count in element.first) < 200


def test_a_tensor_that_nothing_depends_on_is_offered_one_width() -> None:
    for rows in (4, 200):
        found = menu(torch.zeros(rows, 64), Importance(torch.ones(rows), torch.ones(64)))
        assert found.formats[: len(plain((rows, 64)))] == plain((rows, 64))
        assert not any(text.startswith("columns") for text in found.formats)
        assert max(found.losses) == 0
