"""What the values of a weight look like: spread, tails, and the Student-t law that fits them best."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SAMPLE = 1 << 15
"""Values that the law is fitted to: df is then good to a few percent."""

DF_RANGE = (1.0, 200.0)
"""Where df is sought; above, a Student-t cannot be told from a normal law by such a sample."""

GRID, ROUNDS, SCALE_STEPS = 9, 3, 12


@dataclass(frozen=True)
class TensorStatistics:
    """Statistics of a tensor's values.

    Attributes:
        rms: root mean square.
        kurtosis: fourth moment over the squared second, about zero: 3 for normal data; None if all values are zero.
        df: degrees of freedom of the best-fit Student-t about zero (200: as good as normal); None if there are fewer
            than 16 different values or more than half of them are zero.
    """

    rms: float
    kurtosis: float | None
    df: float | None


def describe(values: Float[Tensor, "*shape"]) -> TensorStatistics:
    """RMS and kurtosis of all values, and the df fitted to evenly spaced ones of them. Non-finite values give nan."""
    second = fourth = 0.0
    flat = values.reshape(-1)
    for chunk in flat.split(1 << 22):
        square = chunk.double().square()
        second += float(square.sum())
        fourth += float(square.square().sum())
    mean = second / max(1, flat.numel())
    if mean == 0:
        return TensorStatistics(0.0, None, None)
    kurtosis = fourth / flat.numel() / mean**2
    return TensorStatistics(math.sqrt(mean), kurtosis, student_df(flat))


@torch.no_grad()
def student_df(values: Float[Tensor, "*shape"]) -> float | None:
    """Degrees of freedom of the Student-t about zero, of free scale, that makes the values likeliest.

    The likelihood is maximized over the scale by its fixed-point (EM) steps for every df of a logarithmic grid, and the
    grid is refined around the best. At most 32,768 evenly spaced values are looked at.
    """
    flat = values.reshape(-1)
    # An odd stride, so that it does not fall in step with rows and blocks.
    stride = max(1, flat.numel() // SAMPLE) | 1
    sample = flat[::stride].double()
    sample = sample / sample.square().mean().sqrt()
    if not bool(sample.isfinite().all()) or sample.unique().numel() < 16 or float((sample == 0).double().mean()) > 0.5:
        return None
    low, high = map(math.log, DF_RANGE)
    best = 0.0
    for _ in range(ROUNDS):
        grid = torch.linspace(low, high, GRID, dtype=torch.float64)
        scores = [_log_likelihood(sample.square(), df) for df in grid.exp().tolist()]
        index = max(range(GRID), key=scores.__getitem__)
        best = float(grid[index])
        low, high = float(grid[max(0, index - 1)]), float(grid[min(GRID - 1, index + 1)])
    return math.exp(best)


def _log_likelihood(squares: Tensor, df: float) -> float:
    """Mean log-likelihood of a Student-t of that df and the scale that suits it best."""
    variance = 1.0 if df > 4 else 0.3
    for _ in range(SCALE_STEPS):
        variance = float(((df + 1) * squares / (df + squares / variance)).mean())
    constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(math.pi * df * variance)
    return constant - (df + 1) / 2 * float(torch.log1p(squares / (df * variance)).mean())
