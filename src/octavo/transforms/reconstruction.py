"""How much of a vector survives rounding in other coordinates, and maps that are learned for it alone, without a model.

The error is E‖x - T⁻¹(Q(T(x)))‖² / n, a channel's mean squared error. Rounding to blocks loses about R² times a block's
energy (R = 0.115 for MXFP4 and normal values). A rotation keeps the energy; a map that is none can trade it, and for
covariance C the ideal is AᵀA ∝ C^(-1/2) followed by a flattening rotation, with the error R² (tr C^(1/2) / n)².

Source: arXiv 2602.17681, section 3 and figure 2; the ideal from Lagrange's condition on tr(A C Aᵀ)·tr((AᵀA)⁻¹).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from octavo.formats.microscaling import Microscaling
from octavo.transforms.activations import ScaleRule, fake_quantize
from octavo.transforms.affine import Affine, LearnedMap


def reconstruction_error(
    values: Float[Tensor, "rows n"], map: Affine, element: Microscaling, scale: ScaleRule = "floor"
) -> Float[Tensor, ""]:
    """Mean squared error of a channel after the map, rounding, and the map undone."""
    return (map.undo(fake_quantize(map(values), element, scale)) - values).square().mean()


@dataclass(frozen=True)
class Fitting:
    """How a map is fitted to vectors.

    Attributes:
        steps: of Adam, its rate falling to zero as a cosine.
        rate: of the first step.
        volume: weight of the penalty on the squared log-volume.
        rows: vectors a step.
    """

    steps: int = 200
    rate: float = 0.02
    volume: float = 1e-3
    rows: int = 512


def fit_map(
    values: Float[Tensor, "rows n"],
    map: LearnedMap,
    element: Microscaling,
    generator: torch.Generator,
    scale: ScaleRule = "floor",
    fitting: Fitting = Fitting(),
) -> LearnedMap:
    """Move the map's parameters so that less is lost of `values`; the same map, for convenience.

    Gradients go straight through the rounding. The loss is relative to the mean square of `values`.
    """
    optimizer = torch.optim.Adam(map.parameters(), lr=fitting.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, fitting.steps)
    energy = values.square().mean()
    for _ in range(fitting.steps):
        chosen = values[torch.randint(len(values), (fitting.rows,), generator=generator)]
        loss = reconstruction_error(chosen, map.affine(), element, scale) / energy
        optimizer.zero_grad()
        (loss + fitting.volume * map.volume()).backward()
        optimizer.step()
        schedule.step()
    return map
