"""Some rows of a tensor for all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.formats import Importance
from octavo.formats.format import matrix_shape

SAMPLE = 1 << 15
"""Weights of each tensor that candidate formats are tried on, or a 64th of it if that is more."""


def sampled_rows(tensor: Tensor, importance: Importance) -> tuple[Tensor, Importance, float]:
    """Evenly spaced rows of a tensor as a matrix, their importance, and how many times larger the whole is."""
    rows, columns = matrix_shape(tuple(tensor.shape))
    matrix = tensor.reshape(rows, columns)
    count = min(rows, max(16, SAMPLE // columns, rows // 64))
    picked = torch.linspace(0, rows - 1, count).long()
    return matrix[picked].float(), Importance(importance.row[picked], importance.column), rows / count
