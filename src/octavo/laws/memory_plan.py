"""How many parameters at how many bits fit a memory best.

Embeddings stay at 16 bits, and they grow with the width of the model: with a deep and narrow rule few bits always win,
and what pushes the best number of bits up in a small memory is the part of it that embeddings take. Shapes are those of
arXiv 2602.15563: Llama's layout with heads of 128, 8 heads of keys and values, a feed-forward width of
(8/3)·1.3·d rounded up to 1024, untied embeddings for 128,256 tokens. Width follows from size by d = aspect × layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy.optimize import brentq

from octavo.base.errors import LawError
from octavo.base.units import format_size
from octavo.laws.precision import PrecisionLaw

EMBEDDING_BITS = 16
PACKED_BITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Widths that pack evenly into bytes, which are compared unless others are asked for."""


@dataclass(frozen=True)
class Layout:
    """How width and depth make parameters.

    Attributes:
        aspect: width over layers. 128 is that of the published 4 B model (the 12 B and 31 B ones have 85 and 102),
            and the one at which the published optima come out.
        vocabulary: tokens.
        tied: whether embedding and head share their weights.
        head: width of a head; widths are multiples of it.
        key_value_heads: heads of keys and values.
    """

    aspect: float = 128.0
    vocabulary: int = 128_256
    tied: bool = False
    head: int = 128
    key_value_heads: int = 8

    def layer(self, width: float, whole: bool = True) -> float:
        """Parameters of a layer; `whole` rounds the feed-forward width up to 1024 as a real model does."""
        forward = 8 / 3 * 1.3 * width
        if whole:
            forward = 1024 * math.ceil(math.floor(forward) / 1024)
        shared = min(self.head * self.key_value_heads, width)
        return 2 * width**2 + 2 * shared * width + 3 * width * forward

    def embeddings(self, width: float) -> float:
        """Parameters of embedding and head."""
        return self.vocabulary * width * (1 if self.tied else 2)


@dataclass(frozen=True)
class Choice:
    """The largest model of some precision that a memory holds.

    Attributes:
        bits: P of a weight of the body, without scales.
        parameters: N of the body, by the aspect ratio exactly.
        effective: N_eff.
        loss: predicted, in nats per token; None where A, B or E is unknown.
        operations: of training, 6·N·D.
        width: of the nearest model with whole heads.
        layers: that fit with this width.
        body: parameters of that model's body.
        bytes: that it takes, embeddings included.
    """

    bits: float
    parameters: float
    effective: float
    loss: float | None
    operations: float
    width: int
    layers: int
    body: int
    bytes: int


def plan_memory(
    memory: int,
    tokens: float,
    law: PrecisionLaw,
    bits: Sequence[float] = PACKED_BITS,
    layout: Layout | None = None,
    scale_bits: float = 0.0,
) -> list[Choice]:
    """What a memory holds at each precision, the best first.

    The best has the lowest loss, which is the largest effective size.

    Args:
        memory: bytes for all weights.
        tokens: of training.
        law: constants; A, B and E may be unknown.
        bits: precisions to compare.
        layout: the shapes of models.
        scale_bits: bits of scales per weight, which cost memory below 16 bits but are no precision: 0.25 for 16 bits
            to each 64 weights. The published curves are met best without.

    Raises:
        LawError: the question makes no sense, or no model fits.
    """
    layout = layout or Layout()
    if not (math.isfinite(tokens) and tokens > 0):
        raise LawError(f"{tokens:g} tokens train no model", "give a positive number, e.g. 1T")
    if not bits or not all(0 < each <= 64 for each in bits):
        raise LawError("precisions must lie between 0 and 64 bits", "give for instance 1,2,4,8,16")
    if scale_bits < 0 or layout.aspect <= 0 or layout.vocabulary < 1:
        raise LawError("scale bits, aspect ratio and vocabulary must not be negative", "check them")
    found = [_choice(memory, tokens, law, each, layout, scale_bits) for each in bits]
    choices = [choice for choice in found if choice is not None]
    if not choices:
        least = format_size(round(EMBEDDING_BITS / 8 * layout.embeddings(layout.head)))
        raise LawError(
            f"{format_size(memory)} hold no model: {layout.vocabulary} tokens at a width of {layout.head} alone take "
            f"{least} for embeddings",
            "give more memory or a smaller --vocabulary",
        )
    return sorted(choices, key=lambda choice: -choice.effective)


def _choice(
    memory: int, tokens: float, law: PrecisionLaw, bits: float, layout: Layout, scale_bits: float
) -> Choice | None:
    stored = bits + (scale_bits if bits < EMBEDDING_BITS else 0.0)

    def taken(width: float, layers: float, whole: bool) -> float:
        body = stored * layers * layout.layer(width, whole)
        return (body + EMBEDDING_BITS * layout.embeddings(width)) / 8

    least = max(1.0, layout.head / layout.aspect)
    if max(taken(layout.head, 1, whole=True), taken(layout.head, least, whole=False)) > memory:
        return None
    top = float(layout.head)
    while taken(top, top / layout.aspect, whole=False) < memory:
        top *= 2
    width: Any = brentq(lambda at: taken(at, at / layout.aspect, whole=False) - memory, layout.head / 2, top)
    parameters = width / layout.aspect * layout.layer(width, whole=False)
    real = layout.head * max(1, round(width / layout.head))
    while taken(real, 1, whole=True) > memory:
        real -= layout.head
    layers = int((8 * memory - EMBEDDING_BITS * layout.embeddings(real)) // (stored * layout.layer(real)))
    loss = law.loss(parameters, tokens, bits) if law.predicts_loss else None
    return Choice(
        bits,
        parameters,
        law.effective(parameters, bits),
        loss,
        6 * parameters * tokens,
        real,
        layers,
        round(layers * layout.layer(real)),
        math.ceil(taken(real, layers, whole=True)),
    )
