"""The trellis behind entropy-coded trellis grids: which of two quantizers a state has, and where an index leads.

Over a fine step D lie two scalar quantizers with integer indices k, both symmetric:

    Q0 = 2k D                   the even multiples,
    Q1 = (2k - sign(k)) D       the odd multiples, and zero.

A path starts in state 0 and runs down a column. In state s the quantizer is Q(s & 1), and index k leads to

    s' = (s >> 1) ^ (h0 if s & 1 else 0) ^ (h1 if k & 1 else 0).

Each quantizer alone has the step 2D and so the rate of a grid of step 2D; together they are twice as dense, and the
best of all paths has up to 1.5 dB less error than rounding. Neighbors in one quantizer differ in parity and lead to
different states, so that paths which part lie far from each other until they meet again.

The polynomials are those of least squared error on uniform data among all of their size (found by exhaustive search);
they leave 0.089, 0.074, 0.062, 0.052 and 0.043 bits of the 0.254 that rounding loses to the bound at high rate.

Sources: Ungerboeck, IEEE Trans. Information Theory 28, 1982 (the codes); Marcellin and Fischer, IEEE Trans.
Communications 38, 1990 (quantization); Kasner, Marcellin and Hunt, IEEE Trans. Image Processing 8, 1999 (union
quantizers, as in JPEG 2000); Schwarz et al., DCC 2019 (the form with the parity of k, in VVC).
"""

from __future__ import annotations

from octavo.base.errors import FormatError

POLYNOMIALS = {4: (2, 1), 8: (7, 1), 16: (13, 4), 32: (27, 10), 64: (34, 23)}
"""Number of states to (h0, h1). h0 has the highest bit of a state, h1 has not."""

LARGEST = 16383
"""Largest index: twice it is still an int16."""

REACH = 32768.0
"""Weights beyond so many fine steps count as so many."""

PERIOD = 64
"""Rows between two subtractions of the least cost, which keep the float32 sums small."""


def polynomials(states: int) -> tuple[int, int]:
    """The two polynomials of a trellis.

    Raises:
        FormatError: there is no trellis of so many states.
    """
    if states not in POLYNOMIALS:
        raise FormatError(f"there is no trellis of {states} states", f"choose {', '.join(map(str, POLYNOMIALS))}")
    return POLYNOMIALS[states]
