"""How much of each layer's output survives: signal-to-quantization-noise ratio, layer by layer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from octavo.base.errors import ModelError
from octavo.measure.divergence import Estimate, estimate


@dataclass(frozen=True)
class LayerQuality:
    """SQNR in dB of one layer's output, mean over sequences; infinite where nothing differs."""

    name: str
    sqnr_db: Estimate


def decoder_layers(model: nn.Module) -> dict[str, nn.Module]:
    """A model's layers by name: the longest list of modules that lies in no other list.

    Raises:
        ModelError: the model has no list of layers.
    """
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outer = [(n, m) for n, m in lists if not any(n.startswith(f"{other}.") for other, _ in lists)]
    if not outer:
        raise ModelError(f"{type(model).__name__} has no list of layers", "leave out --by layer")
    name, layers = max(outer, key=lambda item: len(item[1]))
    return {f"{name}.{i}": layer for i, layer in enumerate(layers)}


@contextlib.contextmanager
def recorded(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Within, every layer's latest output (the hidden states) is kept under its name."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs[name] = (output[0] if isinstance(output, tuple) else output).detach()

        return hook

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


class LayerNoise:
    """Gathers one sequence after the other into every layer's SQNR."""

    def __init__(self) -> None:
        self._decibels: dict[str, list[float]] = {}

    def add(self, reference: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> None:
        """Compare the layers' outputs on one sequence; both models name their layers alike, in order."""
        for (name, expected), found in zip(reference.items(), model.values(), strict=True):
            signal = float(expected.double().square().sum())
            noise = float((expected.double() - found.to(expected.device).double()).square().sum())
            decibels = math.inf if noise == 0 else 10 * math.log10(signal / noise) if signal else -math.inf
            self._decibels.setdefault(name, []).append(decibels)

    def result(self) -> tuple[LayerQuality, ...]:
        """The layers in the order in which they ran."""
        return tuple(
            LayerQuality(name, estimate(torch.tensor(values, dtype=torch.float64)))
            for name, values in self._decibels.items()
        )
