"""Walsh-Hadamard transforms of any size: orthonormal, in O(n log n) where n is a power of two times something small.

A size is split into 2^k · m. The power of two is Sylvester's matrix, the rest, in this order of preference,

- the Hadamard matrix of order m = 12, 20, 28, 36, ... that Paley's constructions give (q = m - 1 a prime of the form
  4t + 3, or q = m/2 - 1 a prime of the form 4t + 1), m at most `LARGEST`;
- the discrete Hartley transform, cas(2 pi i j / m) / sqrt(m) with cas = cos + sin, of the odd part: orthogonal and
  symmetric for every m, its entries at most sqrt(2/m).

Sources: Paley, "On orthogonal matrices" (1933); Bracewell, "Discrete Hartley transform" (1983).
"""

from __future__ import annotations

from functools import cache
from math import isqrt, pi

import torch
from jaxtyping import Float
from torch import Tensor

LARGEST = 256
"""Largest order taken from Paley's constructions: its product is dense, m operations a number."""

RADIX = 16
"""Sylvester's matrix is applied in factors of this order."""


def hadamard_transform(
    values: Float[Tensor, "*rows n"], block: int | None = None, inverse: bool = False
) -> Float[Tensor, "*rows n"]:
    """H x for every row x of the last axis; in the dtype given, computed in float32 at least.

    Args:
        values: the rows.
        block: apply it to consecutive blocks of this size (the last may be short) rather than to whole rows.
        inverse: apply the transpose, which is the inverse.
    """
    size = values.shape[-1]
    wide = values if values.dtype in (torch.float32, torch.float64) else values.float()
    if block is None or block >= size:
        return _transform(wide, inverse).to(values.dtype)
    whole = size // block * block
    parts = [_transform(wide[..., :whole].unflatten(-1, (-1, block)), inverse).flatten(-2)]
    if whole < size:
        parts.append(_transform(wide[..., whole:], inverse))
    return torch.cat(parts, dim=-1).to(values.dtype)


def hadamard_matrix(size: int, block: int | None = None, dtype: torch.dtype = torch.float64) -> Float[Tensor, "n n"]:
    """The orthonormal matrix H of `hadamard_transform`."""
    return hadamard_transform(torch.eye(size, dtype=dtype), block).T.contiguous()


def _transform(values: Tensor, inverse: bool) -> Tensor:
    """The Kronecker product of the factors, applied to the last axis.

    Seen as a tensor with an axis a factor, the row is multiplied along its last axis, which then becomes the first;
    when every factor has had its turn, the axes lie as they did.
    """
    size = values.shape[-1]
    shape, rows = values.shape, values.reshape(-1, size)
    for factor in reversed(_factors(size)):
        factor = factor.to(values)
        order = len(factor)
        product = rows.reshape(-1, size // order, order) @ (factor if inverse else factor.T)
        rows = product.transpose(1, 2).reshape(-1, size)
    return rows.reshape(shape)


@cache
def _factors(size: int) -> tuple[Tensor, ...]:
    """Orthonormal matrices, float64, whose Kronecker product is the transform."""
    odd = size
    while odd % 2 == 0:
        odd //= 2
    special, power = _odd_factor(odd, size // odd)
    factors = [] if special is None else [special]
    while power > 1:
        order = min(RADIX, power)
        factors.insert(0, _sylvester(order))
        power //= order
    return tuple(factors) or (torch.ones(1, 1, dtype=torch.float64),)


def _odd_factor(odd: int, power: int) -> tuple[Tensor | None, int]:
    """The factor that takes up the odd part, and the power of two it leaves."""
    if odd == 1:
        return None, power
    doubled = 1
    while doubled <= power and odd * doubled <= LARGEST:
        if (found := paley(odd * doubled)) is not None:
            return found / (odd * doubled) ** 0.5, power // doubled
        doubled *= 2
    return hartley(odd), power


def _sylvester(order: int) -> Tensor:
    matrix, step = torch.ones(1, 1, dtype=torch.float64), torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    while len(matrix) < order:
        matrix = torch.kron(step, matrix)
    return matrix / order**0.5


def hartley(size: int) -> Float[Tensor, "n n"]:
    """The orthonormal discrete Hartley transform, float64; symmetric and its own inverse."""
    index = torch.arange(size, dtype=torch.int64)
    # The product is reduced before it becomes an angle, so that large sizes lose nothing.
    angle = (index[:, None] * index % size).double() * (2 * pi / size)
    return (angle.cos() + angle.sin()) / size**0.5


def paley(order: int) -> Float[Tensor, "n n"] | None:
    """A matrix of +1 and -1, float64, whose rows are orthogonal, by Paley; None where he has none."""
    if order % 4:
        return None
    if _is_prime(order - 1) and (order - 1) % 4 == 3:
        return _first(order - 1)
    if _is_prime(order // 2 - 1) and (order // 2 - 1) % 4 == 1:
        return _second(order // 2 - 1)
    return None


def _jacobsthal(prime: int) -> Tensor:
    """Q[i, j] is the quadratic character of i - j: 0 on the diagonal, 1 for squares modulo the prime, else -1."""
    character = -torch.ones(prime, dtype=torch.float64)
    character[torch.arange(1, prime).square() % prime] = 1
    character[0] = 0
    index = torch.arange(prime)
    return character[(index[:, None] - index) % prime]


def _bordered(prime: int, sign: float) -> Tensor:
    """Q with a row of ones on top and a column of `sign` ones on the left: a conference matrix."""
    matrix = torch.zeros(prime + 1, prime + 1, dtype=torch.float64)
    matrix[0, 1:], matrix[1:, 0], matrix[1:, 1:] = 1, sign, _jacobsthal(prime)
    return matrix


def _first(prime: int) -> Tensor:
    return torch.eye(prime + 1, dtype=torch.float64) + _bordered(prime, -1)


def _second(prime: int) -> Tensor:
    conference, identity = _bordered(prime, 1), torch.eye(prime + 1, dtype=torch.float64)
    step = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    turn = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    return torch.kron(conference, step) + torch.kron(identity, turn)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, isqrt(number) + 1))
