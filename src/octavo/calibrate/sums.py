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


@dataclass(eq=False)
class _Kind:
    """Sums over all uses of one kind."""

    by_input: bool
    inputs: Tensor
    outputs: Tensor
    tokens: Tensor


class Sums:
    """Grows with every use of one weight; products and look-ups (a tied embedding has both) are kept apart.

    Args:
        shape: the weight's shape, of two or three dimensions.
    """

    def __init__(self, shape: torch.Size) -> None:
        self._shape = (1, *shape) if len(shape) == 2 else tuple(shape)
        self._kinds: dict[tuple[bool, bool], _Kind] = {}

    def add(self, use: Use) -> Tensor:
        """Count a use now, and the gradient at its outputs when that is known; returns the outputs to go on with."""
        kind = self._kind(use)
        outputs = use.outputs
        if not outputs.requires_grad:
            # The gradient's path begins at the look-ups; a product that no look-up feeds has none.
            if not use.lookup:
                return outputs
            # The copy is no leaf, so that a model may add to it in place.
            outputs = outputs.requires_grad_(True).clone()
        if use.lookup:
            ids = use.inputs.flatten()
            kind.inputs[use.slice] += torch.bincount(ids, minlength=kind.inputs.shape[1])
            kind.tokens[use.slice] += ids.numel()
        else:
            kind.inputs[use.slice] += squares(use.inputs)
            kind.tokens[use.slice] += use.inputs.numel() // use.inputs.shape[-1]

        def count(gradient: Tensor) -> None:
            kind.outputs[use.slice] += squares(gradient)

        outputs.register_hook(count)
        return outputs

    def _kind(self, use: Use) -> _Kind:
        experts, rows, columns = self._shape
        key = use.lookup, use.by_input
        if key not in self._kinds:
            inputs, outputs = (rows, columns) if use.by_input else (columns, rows)
            device = use.outputs.device
            self._kinds[key] = _Kind(
                use.by_input,
                torch.zeros(experts, inputs, dtype=torch.float64, device=device),
                torch.zeros(experts, outputs, dtype=torch.float64, device=device),
                torch.zeros(experts, dtype=torch.int64, device=device),
            )
        return self._kinds[key]

    def factors(self, total: int) -> Factors:
        """The factors over `total` tokens, on the CPU."""
        experts, rows, columns = self._shape
        row = torch.zeros(experts, rows, dtype=torch.float64)
        column = torch.zeros(experts, columns, dtype=torch.float64)
        scale = torch.zeros(experts, 1, dtype=torch.float64)
        tokens = torch.zeros(experts, dtype=torch.int64)
        for kind in self._kinds.values():
            inputs = kind.inputs.cpu() / kind.tokens.cpu().clamp_min(1)[:, None]
            outputs = kind.outputs.cpu() / total
            left, right = (inputs, outputs) if kind.by_input else (outputs, inputs)
            row += left * right.sum(1, keepdim=True)
            column += right * left.sum(1, keepdim=True)
            scale += left.sum(1, keepdim=True)
            tokens = torch.maximum(tokens, kind.tokens.cpu())
        # The totals R_i, C_j of a sum of products, as the factors of R_i·C_j / T; a single product gets its own back.
        grand = row.sum(1, keepdim=True)
        reached = grand > 0
        return Factors(
            row=torch.where(reached, row * scale / grand, 0.0),
            column=torch.where(reached, column / scale, 0.0),
            tokens=torch.where(reached[:, 0], tokens, 0),
        )


def merged(factors: Factors) -> Factors:
    """All of a weight's matrices as one, stacked along the rows: the closest product with the same totals."""
    if len(factors.row) == 1:
        return factors
    per_matrix = factors.row * factors.column.sum(1, keepdim=True)
    column = (factors.column * factors.row.sum(1, keepdim=True)).sum(0)
    scale = factors.row.sum().clamp_min(torch.finfo(torch.float64).tiny)
    grand = per_matrix.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return Factors((per_matrix * scale / grand).reshape(1, -1), (column / scale)[None], factors.tokens.min()[None])


@torch.no_grad()
def squares(x: Float[Tensor, "*tokens channels"]) -> Float[Tensor, " channels"]:
    """Sum of the squares of each channel over all tokens: in float32 within a chunk of tokens, in float64 over them."""
    rows = x.detach().reshape(-1, x.shape[-1])
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=x.device)
    for chunk in rows.split(max(1, CHUNK // max(1, rows.shape[1]))):
        total += chunk.float().square().sum(0)
    return total
