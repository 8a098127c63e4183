"""The moment from which a network in training computes with quantized weights.

The recipe of 1-Bit Wonder (arXiv 2602.15563): train unquantized for a while, so that weights have the shapes they will
keep; then estimate a codebook of each matrix, once, and go on with the quantized values in the forward pass and the
gradient straight through. Scales follow the weights at each step, codebooks stay.

A codebook is a pure function of the weights it is fitted to, so that processes that hold the same weights find the same
codebook without a word between them, and no seed is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from octavo.base.errors import ConfigurationError, about
from octavo.formats import Format
from octavo.formats.frozen import FrozenCodebook, following, freeze
from octavo.layers.fake_quantized import FakeQuantizedLinear
from octavo.training.state import gathered


class StartQuantizing:
    """A hook of octavo.training.trainer that gives layers their formats at a step.

    What it estimated is in the run's checkpoints.

    Args:
        model: holds `FakeQuantizedLinear` layers.
        formats: format strings by glob pattern of the layers' names; the first pattern that matches counts, and layers
            that match none stay as they are.
        step: from which on layers are quantized.
        every: steps after which codebooks are estimated anew; None for never. It changes what the network computes, and
            the published runs do without.
        by_gradient: weigh each weight's error by the running mean of its squared gradient, Adam's second moment, when a
            codebook is fitted.

    Raises:
        ConfigurationError: a pattern matches no layer, or the numbers make no sense.
        FormatError: a string names no format.
    """

    def __init__(
        self,
        model: nn.Module,
        formats: Mapping[str, str],
        step: int,
        *,
        every: int | None = None,
        by_gradient: bool = False,
    ) -> None:
        if step < 0 or (every is not None and every < 1):
            raise ConfigurationError(f"nothing can start at step {step}, every {every}", "give numbers from 0 and 1")
        self._step, self._every, self._by_gradient = step, every, by_gradient
        self._layers: dict[str, tuple[FakeQuantizedLinear, Format]] = {}
        named = {name: layer for name, layer in model.named_modules() if isinstance(layer, FakeQuantizedLinear)}
        for pattern, text in formats.items():
            matching = [name for name in named if fnmatchcase(name, pattern)]
            if not matching:
                raise ConfigurationError(
                    f"no layer that can be quantized is called {pattern!r}",
                    "build the model with linear=FakeQuantizedLinear, and see named_modules() for the names",
                )
            format = Format.parse(text)
            self._layers = {name: (named[name], format) for name in matching} | self._layers

    def __call__(self, step: int, model: nn.Module, optimizer: Optimizer) -> None:
        since = step - self._step
        if since == 0 or (since > 0 and self._every is not None and since % self._every == 0):
            for name, (layer, format) in self._layers.items():
                mass = _squared_gradient(layer.weight, optimizer) if self._by_gradient else None
                with about(name):
                    layer.frozen = freeze(format, whole_weight(layer), mass=mass)

    def state_dict(self) -> dict[str, Any]:
        """The codebooks of the layers that are quantized."""
        found: dict[str, Any] = {}
        for name, (layer, _) in self._layers.items():
            if layer.frozen is not None:
                found["started"] = 1
            if isinstance(layer.frozen, FrozenCodebook):
                found[f"codebook/{name}"] = layer.frozen.codebook
        return found

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Quantize the layers as they were quantized."""
        for name, (layer, format) in self._layers.items():
            codebook = state.get(f"codebook/{name}")
            if codebook is not None:
                layer.frozen = FrozenCodebook(format, codebook.to(layer.weight.device))
            else:
                layer.frozen = following(format) if "started" in state else None


def whole_weight(layer: FakeQuantizedLinear) -> Float[Tensor, "rows columns"]:
    """A layer's own weight, its shards put together; all processes take part."""
    return gathered(layer.weight).detach()


def _squared_gradient(weight: Tensor, optimizer: Optimizer) -> Float[Tensor, "rows columns"]:
    """Adam's second moment of a weight in units of its mean; its correction for the start is a factor and cancels.

    Raises:
        ConfigurationError: the optimizer keeps none, or has made no step yet.
    """
    moment = optimizer.state.get(weight, {}).get("exp_avg_sq")
    if moment is None:
        raise ConfigurationError(
            "the optimizer has no second moment of a weight that a codebook is fitted to",
            "use adamw and start after its first step, or set by_gradient=False",
        )
    wide = gathered(moment).double()
    return (wide / wide.mean().clamp_min(torch.finfo(torch.float64).tiny)).float()
