"""Which optimizers there are: a registry of functions from groups of parameters to a torch optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from octavo.base.errors import ConfigurationError
from octavo.training.configuration import OptimizerConfig

Groups = list[dict[str, Any]]
"""Parameters with a weight decay each, as torch's optimizers take them."""

OptimizerConstructor = Callable[[Groups, OptimizerConfig], Optimizer]


def adamw(groups: Groups, config: OptimizerConfig) -> Optimizer:
    """AdamW (Loshchilov and Hutter, 2017, https://arxiv.org/abs/1711.05101), all parameters in one kernel."""
    return AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True)


OPTIMIZERS: dict[str, OptimizerConstructor] = {"adamw": adamw}
"""By name. A constructor's optimizer keeps tensors and numbers in its state, so that checkpoints can hold it."""


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """The optimizer of a model's trainable parameters; only matrices decay.

    Raises:
        ConfigurationError: there is no such optimizer.
    """
    if config.name not in OPTIMIZERS:
        raise ConfigurationError(f"optimizer.name is {config.name!r}", f"choose one of {', '.join(sorted(OPTIMIZERS))}")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: Groups = [
        {"params": [each for each in trained if each.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [each for each in trained if each.ndim < 2], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[config.name]([group for group in groups if group["params"]], config)
