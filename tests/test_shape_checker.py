"""The tests' own checker of array annotations: what it sees, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch
from jaxtyping import Float, Int
from shape_checker import check_shapes
from torch import Tensor

checked = jaxtyping.jaxtyped(typechecker=check_shapes)


@checked
def product(left: Float[Tensor, "rows inner"], right: Float[Tensor, "inner cols"]) -> Float[Tensor, "rows cols"]:
    return left @ right


@checked
def optional(values: Float[Tensor, " n"] | None = None) -> None: ...


@checked
def nested(pair: tuple[Int[Tensor, " n"], str], named: dict[str, Float[Tensor, " n"]]) -> None: ...


@checked
def transposed(matrix: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
    return matrix.T


@checked
def plain(count: int) -> str:
    return count  # pyright: ignore[reportReturnType]


def test_right_calls_pass() -> None:
    assert product(torch.ones(2, 3), torch.ones(3, 4)).shape == (2, 4)
    optional()
    optional(torch.ones(3))
    nested((torch.arange(3), ""), {"a": torch.ones(3)})
    transposed(torch.ones(3, 3))


def test_other_annotations_are_left_to_pyright() -> None:
    assert plain(3) == 3


@pytest.mark.parametrize(
    "call",
    [
        lambda: product(torch.ones(2, 3), torch.ones(4, 4)),
        lambda: product(torch.ones(2, 3), torch.ones(3)),
        lambda: product(torch.ones(2, 3, dtype=torch.int64), torch.ones(3, 4)),
        lambda: optional(torch.ones(3, 3)),
        lambda: optional(3),  # pyright: ignore[reportArgumentType]
        lambda: nested((torch.ones(3), ""), {}),
        lambda: nested((torch.arange(3), ""), {"a": torch.ones(4)}),
        lambda: transposed(torch.ones(2, 3)),
    ],
)
def test_wrong_calls_do_not(call: Callable[[], Any]) -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        call()
