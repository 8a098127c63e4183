"""Sums of squares over tokens of what goes into a weight and of the gradients at what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

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
        self._tokens: dict[bool, Tensor] = {}

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
        inputs, slice, lookup = use.inputs.detach(), use.slice, use.lookup
        tokens = self._tokens.setdefault(lookup, torch.zeros(len(self._rows), dtype=torch.int64))
        tokens[slice] += inputs.numel() if lookup else inputs.numel() // inputs.shape[-1]
        by_input, by_output = (self._rows, self._columns) if use.by_input else (self._columns, self._rows)
        gradients, vocabulary = self._gradients, by_input.shape[1] if lookup else None

        def count(gradient: Tensor) -> None:
            inward, outward, total = _totals(inputs, gradient, vocabulary)
            by_input[slice] += inward
            by_output[slice] += outward
            gradients[slice] += total

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


@torch.no_grad()
def _totals(inputs: Tensor, gradient: Tensor, vocabulary: int | None) -> tuple[Tensor, Tensor, float]:
    """Totals of g_i² x_j² over tokens and outputs, over tokens and inputs, and of g_i² alone; float64 on the CPU.

    Where the inputs are ids of a vocabulary, x is their one-hot vector.
    """
    outputs = gradient.reshape(-1, gradient.shape[-1])
    ids = inputs.reshape(-1) if vocabulary is not None else None
    entering = None if vocabulary is not None else inputs.reshape(-1, inputs.shape[-1])
    inward = torch.zeros(vocabulary or inputs.shape[-1], dtype=torch.float64)
    outward = torch.zeros(outputs.shape[1], dtype=torch.float64)
    total = 0.0
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
        else:
            x = entering[part].float().square()
            outward += (x.sum(1) @ squared).cpu()
            inward += (strength @ x).cpu()
    return inward, outward, total


def merged(factors: Factors) -> Factors:
    """All of a weight's matrices as one, stacked along the rows: the closest product with the same totals."""
    if len(factors.row) == 1:
        return factors
    per_matrix = factors.row * factors.column.sum(1, keepdim=True)
    column = (factors.column * factors.row.sum(1, keepdim=True)).sum(0)
    scale = factors.row.sum().clamp_min(torch.finfo(torch.float64).tiny)
    grand = per_matrix.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return Factors((per_matrix * scale / grand).reshape(1, -1), (column / scale)[None], factors.tokens.min()[None])
