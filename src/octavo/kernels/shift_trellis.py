"""The bit-shift trellis behind fixed-rate trellis codes: which bits of a column give the value of a weight.

A column of weights is a stream of b bits a weight, the first row in the lowest bits. The *state* of row i is the window
of L bits from bit i·b on, with zeros beyond the end of the stream, and the value of the row is what a table has for
that state. So any weight is read by itself, while whoever writes has 2^L values to choose from, 2^b at each step: a
path that runs up the column, from the last row to the first,

    s_i = (2^b s_(i+1) + c_i) mod 2^L,    0 <= c_i < 2^b,

along which the Viterbi algorithm finds the least squared error.

The 2^b states that may follow a state should have well-spread values, and so should the 2^b states that lead to the
same ones. `ranks` orders the states accordingly: the value of state s is the one of rank

    (a (s xor (s >> k)) + c) mod 2^L

in the table, a bijection. Without the shift (k = L) the values of states that meet lie at equal distances whatever a
is, which serves wide codes; with it they are closer to random, which serves narrow ones. The constant places the few
values that the last rows may take. The pairs (k, a) of `MIXERS` are those of least squared error on normal data among
some thousands drawn at random, and c is the best of 64 multiples of 2^L / 64 for columns of 24 and then 144 rows.

Sources: Tseng et al., QTIP (arXiv 2406.11235: the bit-shift trellis for weights); Eriksson, Novak and Anderson, Linear
Congruential Trellis Source Codes, IEEE Trans. Communications 57, 2009 (values by multiplication).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from octavo.base.errors import FormatError

STATES = (256, 1024, 4096, 16384)
"""Numbers of states that mixers were looked for."""

MIXERS = {
    256: ((5, 135, 28), (8, 189, 224), (8, 221, 56), (8, 79, 88)),
    1024: ((8, 483, 272), (3, 753, 464), (4, 383, 896), (10, 957, 16), (10, 351, 752)),
    4096: ((10, 2243, 640), (9, 1053, 3008), (8, 1525, 3008), (12, 3831, 640), (12, 2431, 3200), (12, 1693, 256)),
    16384: (
        (5, 8901, 3072),
        (3, 12399, 3072),
        (9, 14323, 16128),
        (8, 11261, 8192),
        (14, 14169, 1024),
        (14, 13381, 14336),
    ),
}
"""Number of states to (k, a, c), by bits of a code from 1 on."""

PERIOD = 16
"""Rows between two subtractions of the least cost, which keep the float32 sums small."""

REACH = 1024.0
"""Weights beyond so many times the unit of the table count as so many."""


def check_trellis(states: int, bits: int) -> None:
    """Refuse a trellis that has no mixer.

    Raises:
        FormatError: another number of states, or more branches at a state than the root of it.
    """
    if states not in STATES:
        raise FormatError(f"there is no trellis of {states} states", f"choose {', '.join(map(str, STATES))}")
    most = (states.bit_length() - 1) // 2
    if not 1 <= bits <= min(most, len(MIXERS[states])):
        raise FormatError(
            f"a trellis of {states} states has no codes of {bits} bits",
            f"choose 1 to {min(most, len(MIXERS[states]))} bits, or more states",
        )


def column_bytes(rows: int, bits: int) -> int:
    """Bytes of the stream of one column."""
    return (rows * bits + 7) // 8


def mixer(states: int, bits: int) -> tuple[int, int] | None:
    """The pair (k, a) that orders the states; None where there is no such trellis."""
    known = MIXERS.get(states, ())
    return known[bits - 1][:2] if 1 <= bits <= len(known) else None


def ranks(states: int, bits: int) -> Int64[Tensor, " states"]:
    """Rank of each state's value among all of the table's."""
    check_trellis(states, bits)
    shift, factor, offset = MIXERS[states][bits - 1]
    state = torch.arange(states, device="cpu")
    return (factor * (state ^ (state >> shift)) + offset) % states


def curve_values(curve: Float[Tensor, " knots"], places: Float32[Tensor, " states"]) -> Float32[Tensor, " states"]:
    """Values of a curve that is linear between its knots, in float32, rounded once: those that every kernel decodes.

    Args:
        curve: its values at the knots, at least two.
        places: where to take it, in knots from the first.
    """
    knots = curve.float()
    knot = places.long().clamp(max=len(knots) - 2)
    low, high = knots[knot], knots[knot + 1]
    return (low.double() + (places - knot).double() * (high - low).double()).float()
