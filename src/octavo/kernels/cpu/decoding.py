"""What lies between the products of one decoding step, in C++; see octavo.kernels.decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.kernels import cpu


def add_norm(
    residual: Tensor, delta: Tensor | None, weight: Tensor, epsilon: float, out: Tensor, portable: bool = False
) -> cpu.Operation:
    return cpu.Operation(_made("AddNorm", residual, delta, weight, epsilon, out, portable))


def gate(found: Tensor, out: Tensor, portable: bool = False) -> cpu.Operation:
    return cpu.Operation(_made("Gate", found, out, portable))


def likeliest(values: Tensor, out: Tensor, portable: bool = False) -> cpu.Operation:
    return cpu.Operation(_made("Likeliest", values, out, portable))


def draw(
    values: Tensor,
    rows: Sequence[int],
    largest: Sequence[int],
    temperatures: Sequence[float],
    uniforms: Sequence[float],
    portable: bool = False,
) -> list[int]:
    numbers = rows, largest, temperatures, uniforms
    return _called(cpu._extension().draw, values, *numbers, torch.get_num_threads(), portable)


def dense(weight: Tensor, bias: Tensor | None, inputs: Tensor, out: Tensor, portable: bool = False) -> cpu.Operation:
    return cpu.Operation(_made("DenseProduct", weight, bias, inputs, out, portable))


def attend(
    found: Tensor,
    slots: Tensor,
    positions: Tensor,
    cosine: Tensor,
    sine: Tensor,
    keys: Tensor,
    values: Tensor,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    window: int | None,
    epsilon: float,
    out: Tensor,
    portable: bool = False,
) -> cpu.Operation:
    cache = cosine, sine, keys, values, query_norm, key_norm
    return cpu.Operation(_made("Attend", found, slots, positions, *cache, window or 0, epsilon, out, portable))


def _made(name: str, *arguments: Any) -> Any:
    return _called(getattr(cpu._extension(), name), *arguments)


def _called(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (ValueError, TypeError) as error:
        raise FormatError(
            f"{function.__name__}: {str(error).splitlines()[0]}", "pass contiguous float32 tensors of matching sizes"
        ) from None
