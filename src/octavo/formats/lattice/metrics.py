"""What errors of the weights of a vector cost together, and a sample of vectors to learn on."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from octavo.formats.importance import Importance
from octavo.formats.lattice.learning import Sample

SEED = 0
"""Of the choice of vectors."""


def vector_metrics(
    importance: Importance | None, columns: int, dimension: int, device: torch.device
) -> Float32[Tensor, "vectors d d"]:
    """M of each vector of a row: errors e cost eᵀ M e. Columns that fill up the last vector cost nothing.

    With U of the importance M = (U_BB)⁻¹ (U_BB)⁻ᵀ for the columns B of the vector: what their errors cost together when
    all later columns make up for them. Without it, the importance of each column by itself.
    """
    padding = -columns % dimension
    if importance is None or importance.upper is None:
        column = torch.ones(columns, device=device) if importance is None else importance.column
        return torch.diag_embed(torch.nn.functional.pad(column, (0, padding)).view(-1, dimension))
    found = torch.zeros(-(-columns // dimension), dimension, dimension, device=device)
    for number, start in enumerate(range(0, columns, dimension)):
        own = importance.upper[start : start + dimension, start : start + dimension]
        inverse = torch.linalg.solve_triangular(own, torch.eye(len(own)).to(own), upper=True)
        found[number, : len(own), : len(own)] = inverse @ inverse.T
    return found / found.diagonal(dim1=1, dim2=2).mean()


def sampled(
    units: Float[Tensor, "rows run"],
    mass: Float[Tensor, "rows vectors"],
    metrics: Float32[Tensor, "vectors d d"],
    count: int,
) -> tuple[Sample, float]:
    """Some vectors of a group, and what a unit of their mean loss means for the loss of the whole group.

    Args:
        units: the group's weights in units of their scales.
        mass: factor of each vector's metric.
        metrics: M of each vector of a row.
        count: how many vectors, at most.
    """
    rows, dimension = len(units), metrics.shape[1]
    vectors = units.reshape(-1, dimension)
    chosen = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(SEED))[:count].to(units.device)
    weighed = mass.reshape(-1)[chosen, None, None] * metrics[chosen % len(metrics)]
    level = weighed.diagonal(dim1=1, dim2=2).mean().clamp_min(1e-30)
    return Sample(vectors[chosen], weighed / level), float(level) * rows * len(metrics)
