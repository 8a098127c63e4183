"""How much a change of the weights hurts a model, as it is trained on more and more tokens.

Progressive sensitivity (arXiv 2503.19206): the loss that a fixed change adds, noise or fine-tuning, grows with the
tokens of pretraining. Where it grows faster than the model improves, the loss after the change has a minimum, and from
there on more pretraining is worse. Every model of a series needs its own complete decay of the learning rate.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn
from torch.func import functional_call

from octavo.base.errors import LawError
from octavo.training import Objective, Source, TrainingConfig, train

Scales = Mapping[str, float]
"""Of each parameter, what a noise of 1 means."""

Loss = Callable[[Callable[..., Tensor]], float]
"""From a model to its loss on fixed data, in nats."""


def reference_scales(model: nn.Module) -> dict[str, float]:
    """The standard deviation of each parameter.

    Taken of the network before training, it does not change with the tokens; taken of a trained one, it makes noise
    relative to weights that have grown. Parameters that are all alike, as gains of norms at the start, have 0.
    """
    return {name: float(value.detach().double().std(correction=0)) for name, value in model.named_parameters()}


def perturb(
    parameters: Mapping[str, Tensor], gamma: float, scales: Scales, generator: torch.Generator
) -> dict[str, Tensor]:
    """θ + γ s ε, with ε normal and s the scale of each parameter; with γ = 0 the parameters, bit for bit.

    The generator, on the CPU, is drawn from for every parameter in order of its name.
    """
    changed = {}
    for name in sorted(parameters):
        value = parameters[name].detach()
        noise = torch.randn(value.shape, generator=generator).to(value.device, value.dtype)
        changed[name] = value + (gamma * scales[name]) * noise
    return changed


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """What noise of one strength does to one model.

    Attributes:
        tokens: that the model was trained on.
        gamma: strength of the noise.
        base: loss without it.
        perturbed: loss of every draw; draw i is of the same seed for all models.
    """

    tokens: int
    gamma: float
    base: float
    perturbed: Float[ndarray, " draws"]

    @property
    def mean(self) -> float:
        """Loss with noise."""
        return float(self.perturbed.mean())

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return float(self.perturbed.std(ddof=1) / math.sqrt(len(self.perturbed))) if len(self.perturbed) > 1 else 0.0

    @property
    def added(self) -> float:
        """S_γ(T): what the noise adds."""
        return self.mean - self.base


@torch.no_grad()
def sensitivity_curve(
    models: Mapping[int, nn.Module],
    gammas: Sequence[float],
    seeds: Sequence[int],
    loss: Loss,
    scales: Scales | Callable[[nn.Module], Scales],
) -> list[Sensitivity]:
    """The noise probe, on every model of a series.

    Args:
        models: by tokens of pretraining.
        gammas: strengths of the noise.
        seeds: of the draws, the same for all models and strengths, so that comparisons are paired.
        loss: on fixed data.
        scales: of the network before training; or a function of each model, such as `reference_scales`.
    """
    table = []
    for tokens, model in sorted(models.items()):
        parameters = dict(model.named_parameters())
        base = loss(model)
        of_model = scales(model) if callable(scales) else scales
        for gamma in gammas:
            losses = []
            for seed in seeds:
                changed = perturb(parameters, gamma, of_model, torch.Generator().manual_seed(seed))
                losses.append(loss(partial(_call, model, changed)))
            table.append(Sensitivity(tokens, gamma, base, np.array(losses)))
    return table


def _call(model: nn.Module, parameters: dict[str, Tensor], *inputs: Tensor) -> Tensor:
    return functional_call(model, parameters, inputs)


def finetune_sweep(
    model: nn.Module,
    rates: Sequence[float],
    objective: Objective,
    source: Source,
    config: TrainingConfig,
    losses: Mapping[str, Loss],
) -> dict[float, dict[str, float]]:
    """Fine-tune copies of a model at several learning rates; of each the losses afterwards.

    Args:
        model: is left as it is.
        rates: learning rates; 0 changes nothing.
        objective: of fine-tuning.
        source: what it is fine-tuned on.
        config: the run, but for the rate.
        losses: by name, for instance on the task and on the text of pretraining.
    """
    table = {}
    for rate in rates:
        tuned = copy.deepcopy(model)
        train(tuned, objective, source, config.changed({"optimizer.learning_rate": float(rate)}))
        tuned.eval()
        with torch.no_grad():
            table[rate] = {name: loss(tuned) for name, loss in losses.items()}
    return table


@dataclass(frozen=True)
class Inflection:
    """Where more pretraining begins to hurt.

    Attributes:
        tokens: T*, with the least mean loss after the change.
        probability: that T* is below the most tokens, over resamples of the seeds.
        excess: loss at the most tokens above the least, averaged over seeds.
        error: standard error of the excess over seeds, paired; nan with one seed.
    """

    tokens: int
    probability: float
    excess: float
    error: float

    @property
    def beyond_noise(self) -> bool:
        """Whether the excess is more than two standard errors above zero."""
        return self.excess > 2 * self.error


def inflection(
    tokens: Sequence[int], losses: Float[ndarray, "seeds tokens"], *, resamples: int = 2000, seed: int = 0
) -> Inflection:
    """The number of tokens at which the loss after a change is least, and how sure that is.

    Args:
        tokens: rising.
        losses: after the change, a row for each seed of pretraining.
        resamples: of the seeds.
        seed: of the resampling.

    Raises:
        LawError: the table does not fit the tokens, or they do not rise.
    """
    if losses.ndim != 2 or losses.shape[1] != len(tokens) or list(tokens) != sorted(set(tokens)) or not len(losses):
        raise LawError("losses need a row for each seed and a column for each rising number of tokens", "check them")
    mean = losses.mean(0)
    least = int(np.argmin(mean))
    picked = np.random.default_rng(seed).integers(0, len(losses), (resamples, len(losses)))
    sooner = np.argmin(losses[picked].mean(1), axis=1) < len(tokens) - 1
    gap = losses[:, -1] - losses[:, least]
    error = float(gap.std(ddof=1) / math.sqrt(len(gap))) if len(gap) > 1 else math.nan
    return Inflection(tokens[least], float(sooner.mean()), float(gap.mean()), error)
