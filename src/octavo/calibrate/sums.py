"""Sums of squares over tokens of what goes into a weight and of the gradients at what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from octavo.calibrate.uses import Use

CHUNK = 1 << 20
"""Elements squared at once, so that the square of all logits is never there."""


@dataclass(frozen=True, eq=False)
class Factors:
    """The separable Fisher of one weight: E matrices of [rows, columns] (E = 1 unless it holds several experts).

    Attributes:
        row: factor of the rows, float64.
        column: factor of the columns, float64.
        tokens: how many tokens reached each matrix.
    """

    row: Float[Tensor, "experts rows"]
    column: Float[Tensor, "experts columns"]
    tokens: Int[Tensor, " experts"]


class Sums:
    """Grows with every use of one weight; a tied embedding's totals over products and look-ups add.

    Args:
        shape: the weight's shape, of two or three dimensions.
    """

    def __init__(self, shape: torch.Size) -> None:
        experts, rows, columns = (1, *shape) if len(shape) == 2 else tuple(shape)
        self._rows = torch.zeros(experts, rows, dtype=torch.float64)
        self._columns = torch.zeros(experts, columns, dtype=torch.float64)
        self._gradients = torch.zeros(experts, dtype=torch.float64)
        self._typical = torch.zeros(experts, dtype=torch.float64)
        self._tokens: dict[bool, Tensor] = {}
        self.strengths: list[Tensor] = []
        """‖g_t‖² of the tokens of each use that is a product, in the order of the backward pass."""

    @property
    def looked_up(self) -> bool:
        """Whether rows of the weight were looked up by index, as those of an embedding are."""
        return True in self._tokens

    def add(self, use: Use) -> Tensor:
        """Count a use; its squares when the gradient at its outputs is known. Returns the outputs to go on with."""
        outputs = use.outputs
        if not outputs.requires_grad:
            # The gradient's path begins at the look-ups; a product that no look-up feeds has none.
            if not use.lookup:
                return outputs
            # The copy is no leaf, so that a model may add to it in place.
            outputs = outputs.requires_grad_(True).clone()
        # Not `use`: the hook would keep alive the very outputs it hangs on, and with them the whole sequence's graph.
        keeps, slice, lookup = use.inputs, use.slice, use.lookup
        tokens = self._tokens.setdefault(lookup, torch.zeros(len(self._rows), dtype=torch.int64))
        by_input, by_output = (self._rows, self._columns) if use.by_input else (self._columns, self._rows)
        strengths = self.strengths
        gradients, typical, vocabulary = self._gradients, self._typical, by_input.shape[1] if lookup else None

        # All is counted here, which runs once; a layer that is recomputed comes by above twice.
        def count(gradient: Tensor) -> None:
            inputs = keeps()
            tokens[slice] += inputs.numel() if lookup else inputs.numel() // inputs.shape[-1]
            found = _totals(inputs, gradient, vocabulary)
            by_input[slice] += found.inward
            by_output[slice] += found.outward
            gradients[slice] += found.gradients
            typical[slice] += found.typical
            if not lookup:
                strengths.append(found.strengths)

        outputs.register_hook(count)
        return outputs

    def factors(self, total: int) -> Factors:
        """The factors over `total` tokens."""
        grand = self._rows.sum(1, keepdim=True)
        reached = grand > 0
        gradients = self._gradients[:, None]
        tokens = torch.stack(list(self._tokens.values())).amax(0) if self._tokens else torch.zeros(len(grand)).long()
        return Factors(
            row=torch.where(reached, self._rows / grand * gradients / total, 0.0),
            column=torch.where(reached, self._columns / gradients, 0.0),
            tokens=torch.where(reached[:, 0], tokens, 0),
        )

    def with_unseen(self, factors: Factors, total: int, occurrences: float, is_vocabulary: bool) -> Factors:
        """The factors, with importance for rows that the text does not show but another text will.

        Nearly all of a vocabulary's tokens are missing from a few thousand tokens of text, and without importance they
        would get no bits. So every token is credited with some `occurrences` more (as by Lidstone's estimator), each as
        strong as the median one: a mean would be that of a few extreme rows. Of other tables (positions), a row that
        was never looked up counts like the median of those that were.
        """
        row = factors.row
        if is_vocabulary and bool((row > 0).any()):
            typical = self._typical / factors.tokens * self._gradients / self._rows.sum(1)
            row = row + occurrences * typical[:, None] / total
        elif self.looked_up and bool((row > 0).any()):
            row = torch.where(row > 0, row, row[row > 0].median())
        return replace(factors, row=row)


class Totals(NamedTuple):
    """Totals of one use, float64 on the CPU.

    Attributes:
        inward: of g_i² x_j² over tokens and outputs, by input.
        outward: of the same over tokens and inputs, by output.
        gradients: of g_i² over all.
        typical: of g_i² x_j² over all, if every token had the median token's.
        strengths: of g_i² over outputs, by token; float32.
    """

    inward: Tensor
    outward: Tensor
    gradients: float
    typical: float
    strengths: Tensor


@torch.no_grad()
def _totals(inputs: Tensor, gradient: Tensor, vocabulary: int | None) -> Totals:
    """Totals of the squares of a use; where the inputs are ids of a vocabulary, x is their one-hot vector."""
    outputs = gradient.reshape(-1, gradient.shape[-1])
    ids = inputs.reshape(-1) if vocabulary is not None else None
    entering = None if vocabulary is not None else inputs.reshape(-1, inputs.shape[-1])
    inward = torch.zeros(vocabulary or inputs.shape[-1], dtype=torch.float64)
    outward = torch.zeros(outputs.shape[1], dtype=torch.float64)
    total = 0.0
    strengths, sizes = [], []
    step = max(1, CHUNK // max(outputs.shape[1], 1 if entering is None else entering.shape[1]))
    for start in range(0, len(outputs), step):
        part = slice(start, start + step)
        squared = outputs[part].float().square()
        strength = squared.sum(1)
        total += float(strength.sum(dtype=torch.float64))
        if entering is None:
            assert ids is not None
            outward += squared.sum(0).cpu()
            inward.index_add_(0, ids[part].cpu(), strength.double().cpu())
            sizes.append(strength)
        else:
            x = entering[part].float().square()
            size = x.sum(1)
            outward += (size @ squared).cpu()
            inward += (strength @ x).cpu()
            sizes.append(strength * size)
        strengths.append(strength)
    typical = float(torch.cat(sizes).median()) * len(outputs) if sizes else 0.0
    each = torch.cat(strengths).cpu() if strengths else torch.zeros(0)
    return Totals(inward, outward, total, typical, each)


def merged(factors: Factors) -> Factors:
    """All of a weight's matrices as one, stacked along the rows: the closest product with the same totals."""
    if len(factors.row) == 1:
        return factors
    per_matrix = factors.row * factors.column.sum(1, keepdim=True)
    column = (factors.column * factors.row.sum(1, keepdim=True)).sum(0)
    scale = factors.row.sum().clamp_min(torch.finfo(torch.float64).tiny)
    grand = per_matrix.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return Factors((per_matrix * scale / grand).reshape(1, -1), (column / scale)[None], factors.tokens.min()[None])
