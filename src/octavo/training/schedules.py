"""How the learning rate goes: its share at each step, as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType

from octavo.base.errors import ConfigurationError
from octavo.training.configuration import ScheduleConfig

Schedule = Callable[[int, int, ScheduleConfig], float]
"""From a step after the warm-up, counted from 0, and how many there are, to a share of the learning rate."""


def constant(step: int, steps: int, config: ScheduleConfig) -> float:
    """Always 1."""
    return 1.0


def cosine(step: int, steps: int, config: ScheduleConfig) -> float:
    """Half a cosine from 1 to the floor (Loshchilov and Hutter, 2016, https://arxiv.org/abs/1608.03983)."""
    done = (step - config.warmup) / max(1, steps - config.warmup)
    return config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * done))


def wsd(step: int, steps: int, config: ScheduleConfig) -> float:
    """1, and in the last share of all steps linearly to the floor (Hu et al., 2024, https://arxiv.org/abs/2404.06395)."""
    falling = round(config.decay * steps)
    left = steps - step
    return 1.0 if left > falling else config.floor + (1 - config.floor) * left / (falling + 1)


SCHEDULES: MappingProxyType[str, Schedule] = MappingProxyType({"constant": constant, "cosine": cosine, "wsd": wsd})


def learning_rate_share(step: int, steps: int, config: ScheduleConfig) -> float:
    """The share of the learning rate that a step, counted from 0, is made with.

    The first `warmup` steps rise linearly, and the last of them has the whole rate.

    Raises:
        ConfigurationError: there is no such schedule.
    """
    if config.name not in SCHEDULES:
        raise ConfigurationError(f"schedule.name is {config.name!r}", f"choose one of {', '.join(sorted(SCHEDULES))}")
    if step < config.warmup:
        return (step + 1) / config.warmup
    return SCHEDULES[config.name](step, steps, config)
