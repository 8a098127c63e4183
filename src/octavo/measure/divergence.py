"""How far one language model's predictions lie from another's, over the full vocabulary, one sequence at a time.

Everything is a mean over tokens within each sequence, then over sequences, whose spread gives the standard error:
neighboring tokens of one text depend on each other, sequences hardly do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from octavo.base.errors import ModelError

POSITIONS = 8
"""Positions compared at once: so few that what is computed from them stays in a processor's cache."""

FIRST_BIN = 16
"""Width of the first bin of positions; each further bin is as wide as all before it together."""


SMALL = 1e-3
"""Divergences in nats below which cancellation matters in float32."""


@dataclass(frozen=True, eq=False)
class SequenceDivergence:
    """One sequence's figures, position by position, in nats; float64.

    Attributes:
        forward: KL(reference ‖ model).
        backward: KL(model ‖ reference).
        agreement: 1 where both find the same token likeliest.
        loss: the model's negative log-likelihood of each label.
        reference_loss: the reference's.
    """

    forward: Float[Tensor, " length"]
    backward: Float[Tensor, " length"]
    agreement: Float[Tensor, " length"]
    loss: Float[Tensor, " labels"]
    reference_loss: Float[Tensor, " labels"]


@dataclass(frozen=True)
class Estimate:
    """A mean over sequences and its standard error (nan for a single sequence)."""

    mean: float
    error: float


@dataclass(frozen=True)
class PositionBin:
    """Positions begin to end-1 of every sequence, counted from 0."""

    begin: int
    end: int
    forward: Estimate
    agreement: Estimate


@dataclass(frozen=True)
class Divergence:
    """Means over sequences, each with its standard error.

    Attributes:
        forward: KL(reference ‖ model) in nats per token.
        backward: KL(model ‖ reference) in nats per token.
        agreement: share of positions where both find the same token likeliest.
        loss: the model's negative log-likelihood in nats per token.
        reference_loss: the reference's.
        excess_loss: loss minus reference_loss, paired by sequence, so that its error is far below theirs.
        positions: the same by position in the sequence.
        sequences: how many sequences.
        tokens: how many positions in all.
    """

    forward: Estimate
    backward: Estimate
    agreement: Estimate
    loss: Estimate
    reference_loss: Estimate
    excess_loss: Estimate
    positions: tuple[PositionBin, ...]
    sequences: int
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss.mean)

    @property
    def reference_perplexity(self) -> float:
        return math.exp(self.reference_loss.mean)


@torch.no_grad()
def compare(
    reference: Float[Tensor, "length vocabulary"],
    model: Float[Tensor, "length vocabulary"],
    labels: Int[Tensor, " labels"],
) -> SequenceDivergence:
    """Compare two models' logits on one sequence.

    Args:
        reference: the reference's logits.
        model: the model's logits.
        labels: the next token of position i; for the last positions there may be none.

    Raises:
        ModelError: logits are not finite.
    """
    forward, backward, agreement, losses = [], [], [], ([], [])
    for start in range(0, len(reference), POSITIONS):
        part = slice(start, start + POSITIONS)
        p, q = (torch.log_softmax(x[part].float(), dim=-1) for x in (reference, model.to(reference.device)))
        difference = p - q
        forward.append(_divergence(p, difference))
        backward.append(_divergence(q, difference.neg_()))
        agreement.append((p.argmax(-1) == q.argmax(-1)).double())
        label = labels[part].to(p.device)
        for found, into in zip((q, p), losses, strict=True):
            into.append(-found[: len(label)].gather(1, label[:, None])[:, 0].double())
    parts = [torch.cat(x).cpu() for x in (forward, backward, agreement, *losses)]
    if not all(bool(x.isfinite().all()) for x in parts):
        raise ModelError("a model's logits are not finite", "evaluate in float32, and check its weights for NaN")
    return SequenceDivergence(*parts)


def _divergence(p: Float[Tensor, "n vocabulary"], difference: Float[Tensor, "n vocabulary"]) -> Float[Tensor, " n"]:
    """KL divergence of log-probabilities p from p - difference, float64; float32 inside, but exact where it is tiny."""
    weight = p.exp()
    plain = (weight * difference).sum(-1, dtype=torch.float64)
    small = ~(plain > SMALL)
    if bool(small.any()):
        plain[small] = _small_divergence(weight[small], difference[small], plain[small])
    return plain


def _small_divergence(
    weight: Float[Tensor, "n vocabulary"], difference: Float[Tensor, "n vocabulary"], plain: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """A tiny divergence `plain`, which is the difference of nearly equal sums, without the cancellation.

    With u = p - q, less its mean under p, it is log E_p[exp(-u)] = log1p(E_p[exp(-u) - 1 + u]), where nothing cancels.
    """
    centered = difference - plain[:, None].float()
    offset = (weight * centered).sum(-1, dtype=torch.float64)
    curvature = (weight * (torch.expm1(-centered) + centered)).sum(-1, dtype=torch.float64)
    return offset + torch.log1p(curvature - offset)


def summarize(sequences: Iterable[SequenceDivergence]) -> Divergence:
    """The means over sequences of one length, with standard errors.

    Raises:
        ModelError: there is no sequence.
    """
    found = list(sequences)
    if not found:
        raise ModelError("there is nothing to evaluate on", "give a text of at least one sequence")
    forward, backward, agreement, loss, reference_loss = (
        torch.stack([getattr(sequence, name) for sequence in found])
        for name in ("forward", "backward", "agreement", "loss", "reference_loss")
    )
    length = forward.shape[1]
    edges = position_edges(length)
    return Divergence(
        forward=_over_sequences(forward),
        backward=_over_sequences(backward),
        agreement=_over_sequences(agreement),
        loss=_over_sequences(loss),
        reference_loss=_over_sequences(reference_loss),
        excess_loss=_over_sequences(loss - reference_loss),
        positions=tuple(
            PositionBin(begin, end, _over_sequences(forward[:, begin:end]), _over_sequences(agreement[:, begin:end]))
            for begin, end in pairwise(edges)
        ),
        sequences=len(found),
        tokens=forward.numel(),
    )


def position_edges(length: int) -> Sequence[int]:
    """Edges of the bins of positions: 0, 16, 32, 64, ... and the length."""
    edges = [0, FIRST_BIN]
    while edges[-1] < length:
        edges.append(2 * edges[-1])
    return [edge for edge in edges if edge < length] + [length]


def _over_sequences(values: Float[Tensor, "sequences positions"]) -> Estimate:
    return estimate(values.mean(1))


def estimate(values: Float[Tensor, " sequences"]) -> Estimate:
    """Mean and standard error of one value a sequence."""
    error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return Estimate(float(values.mean()), error)
