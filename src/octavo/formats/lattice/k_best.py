"""Integer least squares in a box: the points of a lattice near a target, the best few of which are kept at each level.

The squared error of a point z is (z - c)ᵀ A (z - c), c being the real solution. With A = RᵀR, R upper triangular, it is
a sum of squares of which the last depends on z_d alone, the one before on z_d and z_{d-1}, and so on. So z is built up
from its last coordinate: every point kept so far is continued by the nearest value allowed and by its two neighbors,
and the `kept` of least partial sum go on. With one kept this is Babai's nearest plane; with all kept it would be exact
but for values farther away than the neighbors.

Source: the K-best sphere decoder, Guo and Nilsson, IEEE J. Selected Areas in Communications 24 (2006); Babai,
Combinatorica 6 (1986).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

RIDGE = 1e-6
"""Of the mean diagonal of A, added to it: coordinates whose error does not count must not make it singular."""


def k_best(
    gram: Float[Tensor, "_ d d"], center: Float[Tensor, "n d"], top: float, kept: int
) -> Float[Tensor, "n found d"]:
    """Points whose coordinates are -top, 1 - top, ..., top, those of least error first; at most `kept` each.

    Args:
        gram: A, one for all targets or one for each, positive semidefinite.
        center: c.
        top: the largest coordinate, a multiple of 1/2.
        kept: points that are kept.

    """
    count, d = center.shape
    identity = torch.eye(d, dtype=gram.dtype, device=gram.device)
    level = gram.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(torch.finfo(gram.dtype).tiny)[:, None, None]
    upper = torch.linalg.cholesky(gram / level + RIDGE * identity, upper=True)
    weight = upper.diagonal(dim1=-2, dim2=-1).square()
    upper = upper / upper.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    found, error = center.new_zeros(count, 1, d), center.new_zeros(count, 1)
    neighbors = torch.tensor([-1.0, 0.0, 1.0], dtype=center.dtype, device=center.device)
    for k in range(d - 1, -1, -1):
        after = slice(k + 1, d)
        aim = center[:, k, None] + (upper[:, None, k, after] * (center[:, None, after] - found[..., after])).sum(-1)
        values = ((aim - top).round() + top).clamp(-top, top)[..., None] + neighbors
        total = error[..., None] + weight[:, k, None, None] * (aim[..., None] - values).square()
        total = torch.where(values.abs() <= top, total, torch.inf).flatten(1)
        error, chosen = total.topk(min(kept, total.shape[1]), dim=1, largest=False)
        found = found.gather(1, (chosen // len(neighbors))[..., None].expand(-1, -1, d))
        # Where there are fewer in the box than are kept, the last ones repeat others.
        found[..., k] = values.clamp(-top, top).flatten(1).gather(1, chosen)
    return found
