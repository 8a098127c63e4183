"""The operations of one decoding step, prepared for buffers that stay where they are: dense products, and all between.

A step of a small model runs hundreds of these, each a few microseconds long, so they are no ops of torch: calling an op
takes longer than its work. Each function here checks its buffers once and returns a callable that takes the number of
rows in use. On the CPU and in float32 only; what they compute is defined in octavo.kernels.reference.decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from octavo.kernels import cpu
from octavo.kernels.backends import say_once
from octavo.kernels.cpu import decoding as native
from octavo.kernels.reference import decoding as reference

Prepared = Callable[[int], None]
"""Runs on the first rows of its buffers."""


def add_norm(
    residual: Float32[Tensor, "rows width"],
    delta: Float32[Tensor, "rows width"] | None,
    weight: Float32[Tensor, " width"],
    epsilon: float,
    out: Float32[Tensor, "rows width"],
) -> Prepared:
    """residual += delta, unless that is None; out = weight · (residual / root mean square)."""
    if _native():
        return native.add_norm(residual, delta, weight, epsilon, out)

    def run(rows: int) -> None:
        added = None if delta is None else delta[:rows]
        out[:rows] = reference.add_norm(residual[:rows], added, weight, epsilon)

    return run


def gate(found: Float32[Tensor, "rows both"], out: Float32[Tensor, "rows inner"]) -> Prepared:
    """out = silu(gate) · up of rows of `found` that hold both."""
    if _native():
        return native.gate(found, out)

    def run(rows: int) -> None:
        out[:rows] = reference.gate(found[:rows])

    return run


def likeliest(values: Float32[Tensor, "rows n"], out: Int64[Tensor, " rows"]) -> Prepared:
    """The place of the largest of each row's values, the first of several; -1 where that is no finite number."""
    if _native():
        return native.likeliest(values, out)

    def run(rows: int) -> None:
        out[:rows] = reference.likeliest(values[:rows])

    return run


def draw(
    values: Float32[Tensor, "rows n"],
    rows: Sequence[int],
    largest: Sequence[int],
    temperatures: Sequence[float],
    uniforms: Sequence[float],
) -> list[int]:
    """Of some rows the place that a number from 0 up to 1 falls on, places being as wide as e^(value / temperature).

    Args:
        values: rows of them.
        rows: which.
        largest: where each of these has its largest value, a finite number.
        temperatures, uniforms: of each.

    Raises:
        FormatError: there is no such row or place, or a largest value is no finite number.
    """
    if _native():
        return native.draw(values, rows, largest, temperatures, uniforms)
    chosen = zip(rows, temperatures, uniforms, strict=True)
    return [reference.drawn(values[row], temperature, uniform) for row, temperature, uniform in chosen]


def dense(
    weight: Float[Tensor, "columns_out columns"],
    bias: Float32[Tensor, " columns_out"] | None,
    inputs: Float32[Tensor, "rows columns"],
    out: Float32[Tensor, "rows columns_out"],
) -> Prepared:
    """out = inputs · weightᵀ + bias of a float32 or bfloat16 weight.

    A row is summed the same way whatever other rows there are, which products of torch do not promise.
    """
    if _native():
        return native.dense(weight, bias, inputs, out)

    def run(rows: int) -> None:
        out[:rows] = reference.dense(inputs[:rows], weight, bias)

    return run


def attend(
    found: Float32[Tensor, "rows channels"],
    slots: Int64[Tensor, " rows"],
    positions: Int64[Tensor, " rows"],
    cosine: Float32[Tensor, "positions half"],
    sine: Float32[Tensor, "positions half"],
    keys: Float[Tensor, "slots shared tiles width 16"],
    values: Float[Tensor, "slots shared tokens padded"],
    query_norm: Float32[Tensor, " width"] | None,
    key_norm: Float32[Tensor, " width"] | None,
    window: int | None,
    epsilon: float,
    out: Float32[Tensor, "rows queries"],
) -> Prepared:
    """Put one token of each row into a layer's cache, and let its queries attend to its slot's tokens.

    Args:
        found: queries, keys and values of each row's token.
        slots, positions: of the tokens; read at each call.
        cosine, sine: of the turns of all positions.
        keys, values: the cache of the layer (octavo.models.static_cache), float32 or bfloat16.
        query_norm, key_norm: weights of the heads' norms, with `epsilon`; None for none.
        window: tokens that are seen; None for all.
        epsilon: of these norms.
        out: the channels of all heads.

    Raises:
        FormatError: the buffers do not fit each other.
    """
    cache = cosine, sine, keys, values, query_norm, key_norm
    if _native():
        return native.attend(found, slots, positions, *cache, window, epsilon, out)

    def run(rows: int) -> None:
        for row in range(rows):
            place = int(slots[row]), int(positions[row])
            out[row] = reference.attend(found[row], *place, *cache, window or 0, epsilon)

    return run


def together(operations: Iterable[Prepared]) -> list[Prepared]:
    """The same in their order, but those in C++ that follow each other as one."""
    found: list[Prepared] = []
    for _, group in groupby(operations, lambda operation: isinstance(operation, cpu.Operation)):
        alike = [*group]
        native = [operation for operation in alike if isinstance(operation, cpu.Operation)]
        found += [cpu.sequence(native)] if native else alike
    return found


def numbered(
    arrays: Sequence[Int64[Tensor, " most"]], operations: Sequence[Prepared]
) -> Callable[[Sequence[Sequence[int]]], None]:
    """Operations on rows that have a number in each array: a function that takes the numbers, array by array.

    What is done for every token is done by few words of Python, since weights leave none of it in the caches.
    """
    if len(operations) == 1 and isinstance(operation := operations[0], cpu.Operation):
        return cpu.numbered(arrays, operation)

    def run(numbers: Sequence[Sequence[int]]) -> None:
        for array, given in zip(arrays, numbers, strict=True):
            array[: len(given)] = torch.tensor(given)
        for operation in operations:
            operation(len(numbers[0]))

    return run


def _native() -> bool:
    if not cpu.MISSING:
        return True
    say_once(f"the C++ kernels are not built, so each token takes many times as long ({cpu.MISSING})")
    return False
