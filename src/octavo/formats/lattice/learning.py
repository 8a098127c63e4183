"""Learning a companded lattice for a group of weights: alternately rounding vectors and following the gradient.

The loss is the mean error eᵀ M e of a sample of the group's vectors. It starts from the best of a few companded bases:

    G₀ = s M̄^(-1/2) (M̄^(1/2) Σ M̄^(1/2))^(1/4) O

with Σ the second moments of the companded vectors and M̄ the mean metric in companded units. For M̄ = 1 this is Σ^(1/4)
up to a rotation, which among lattices whose coordinates take equal bits has least error on correlated normal data; O is
the identity or a Hadamard matrix, which spreads the vector evenly over its coordinates, and s · 1 is tried as well.
Then points are found for G and μ, G and ln μ take some steps of Adam with the points held, and so on. The best iterate
is kept, as it will be stored.

A basis with nearly parallel columns is repaired after every step: rounding to it would be much worse than the lattice
is, and its inverse without meaning. Singular values stay within `CONDITION` of their median.

Source: "Learning Grouped Lattice Vector Quantizers for Low-Bit LLM Compression" (arXiv 2510.20984), which rounds by
Babai's method, to which it is here added that several points are kept. The starting basis, rates and steps are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from scipy.linalg import hadamard
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.formats.lattice.companded import CompandedLattice
from octavo.formats.lattice.companding import compand, slope

MUS = (2.0**-10, 1.0, 3.0, 10.0, 30.0)
"""First values of μ; the smallest is as good as none, and the lower end."""

LARGEST_MU = 1024.0

SPREADS = (0.8, 1.0, 1.2, 1.5)
"""First scales s, of that which is best for normal coordinates."""

TRIED = 512
"""Vectors on which first bases are compared."""

ROUNDS = 8
STEPS = 5
"""Roundings, and steps of Adam after each."""

KEPT = 4
"""Points kept while learning (octavo.formats.lattice.k_best)."""

RATE = 0.02
"""Of G, in units of the root mean square of its entries; falls to a tenth."""

RATE_MU = 0.05
"""Of ln μ."""

CONDITION = 10.0
"""How far a singular value may be from the median, either way."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Vectors of a group, in units of their scales.

    Attributes:
        vectors: what is to be rounded.
        metrics: M of each.
    """

    vectors: Float32[Tensor, "n d"]
    metrics: Float32[Tensor, "n d d"]

    def loss(self, lattice: CompandedLattice, points: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        """Mean error of rounding to given points."""
        difference = lattice.values(points) - self.vectors
        return torch.einsum("ni,nij,nj->n", difference, self.metrics, difference).mean()

    def first(self, count: int) -> Sample:
        """Fewer of them."""
        return Sample(self.vectors[:count], self.metrics[:count])


def learn(sample: Sample, bits: int) -> tuple[CompandedLattice, float]:
    """A lattice for a sample at so many bits a weight, and its loss, never above that of the best first basis."""
    # Learning needs gradients, and ordinary tensors, also where the caller works without them.
    with torch.inference_mode(False), torch.enable_grad():
        own = Sample(sample.vectors.clone(), sample.metrics.clone())
        return _learned(own, bits, first_lattice(own, bits))


def _learned(sample: Sample, bits: int, start: CompandedLattice) -> tuple[CompandedLattice, float]:
    basis, log_mu = start.basis.clone().requires_grad_(), start.mu.log().requires_grad_()
    size = float(start.basis.square().mean().sqrt())
    adam = torch.optim.Adam(
        [{"params": [basis], "lr": RATE * size}, {"params": [log_mu], "lr": RATE_MU}], betas=(0.9, 0.95)
    )
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(adam, ROUNDS * STEPS, eta_min=0.1 * RATE * size)
    best, least = start, math.inf
    for number in range(ROUNDS + 1):
        lattice = CompandedLattice(basis.detach(), log_mu.detach().exp()).stored()
        points, errors = lattice.nearest(sample.vectors, sample.metrics, bits, KEPT)
        error = float(errors.mean())
        if error < least:
            best, least = lattice, error
        if number == ROUNDS:
            break
        for _ in range(STEPS):
            adam.zero_grad()
            sample.loss(CompandedLattice(basis, log_mu.exp()), points).backward()
            adam.step()
            slower.step()
            with torch.no_grad():
                basis.copy_(repaired(basis))
                log_mu.clamp_(math.log(MUS[0]), math.log(LARGEST_MU))
    return best, least


def repaired(basis: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """The nearest basis whose singular values lie within `CONDITION` of their median.

    Raises:
        FormatError: it is not finite, or zero.
    """
    if not bool(basis.isfinite().all()) or not bool(basis.any()):
        raise FormatError(
            "the basis of a lattice degenerated while it was learned", "rescale the tensor, or exclude it"
        )
    left, singular, right = torch.linalg.svd(basis)
    middle = singular.median().clamp_min(singular.max() / CONDITION)
    kept = singular.clamp(middle / CONDITION, middle * CONDITION)
    return basis if torch.equal(kept, singular) else left @ (kept[:, None] * right)


def first_lattice(sample: Sample, bits: int) -> CompandedLattice:
    """The best on some of the vectors of the bases that learning may start from.

    Raises:
        FormatError: all of them make errors that are not finite.
    """
    few = sample.first(TRIED)
    best, least = None, math.inf
    for value in MUS:
        mu = few.vectors.new_tensor(value)
        companded = compand(few.vectors, mu)
        for basis in first_bases(few, companded, mu):
            deviation = torch.linalg.solve(basis, companded.T).square().mean().sqrt()
            # The least error of normal coordinates is where the box ends at 1.6 deviations at 1 bit, 2.0 at 2, ...
            end = (1.2 + 0.4 * bits) * torch.where(deviation > 0, deviation, 1)
            for spread in SPREADS:
                lattice = CompandedLattice(spread * end / 2 ** (bits - 1) * basis, mu).stored()
                error = float(lattice.nearest(few.vectors, few.metrics, bits, KEPT)[1].mean())
                if error < least:
                    best, least = lattice, error
    if best is None:
        raise FormatError("no lattice fits the tensor's weights", "rescale the tensor, or exclude it")
    return best


def first_bases(sample: Sample, companded: Float[Tensor, "n d"], mu: Float[Tensor, ""]) -> list[Tensor]:
    """The identity, and G₀ with and without a Hadamard matrix, up to their scale."""
    slopes = slope(sample.vectors, mu)
    metric = (slopes[:, :, None] * sample.metrics * slopes[:, None, :]).mean(0)
    root, inverse = _power(metric, 0.5), _power(metric, -0.5)
    shaped = inverse @ _power(root @ (companded.T @ companded / len(companded)) @ root, 0.25)
    mixing = torch.from_numpy(hadamard(len(metric)) / math.sqrt(len(metric))).to(shaped)
    return [torch.eye(len(metric)).to(shaped), *(repaired(basis) for basis in (shaped, shaped @ mixing))]


def _power(moments: Float[Tensor, "d d"], exponent: float) -> Float[Tensor, "d d"]:
    """A power of a positive semidefinite matrix, its smallest eigenvalues lifted to 1e-4 of the largest."""
    values, vectors = torch.linalg.eigh(moments)
    top = values[-1] if values[-1] > 0 else torch.ones_like(values[-1])
    return vectors * values.clamp_min(1e-4 * top).div(top).pow(exponent) @ vectors.T
