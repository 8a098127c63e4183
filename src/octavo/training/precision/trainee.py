"""A compressed model whose weights learn within the scales, codebooks and groups that the compression gave them."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from octavo.calibrate.naming import checkpoint_name
from octavo.calibrate.streamed import StreamedWeight
from octavo.checkpoints import Checkpoint
from octavo.formats.frozen import Frozen, freeze_parts
from octavo.formats.tensor import QuantizedTensor
from octavo.layers.fake_quantized import fake_quantize
from octavo.models.quiet import quiet
from octavo.models.streaming import streamed_model

Read = Callable[[str], QuantizedTensor | Tensor]
"""The compressed form of a tensor of the checkpoint: a quantized one, or the tensor itself where it is kept."""


class LearningWeight(nn.Module):
    """Takes the place of a weight: from what learns, in units of the weights' root mean square, to quantized values.

    In these units one learning rate suits all matrices, since steps of Adam are as long whatever a gradient's size.

    Args:
        frozen: the format and its parts.
        unit: root mean square of the weights at the start.
    """

    def __init__(self, frozen: Frozen, unit: float) -> None:
        super().__init__()
        self.frozen, self.unit = frozen, unit

    def forward(self, learning: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return fake_quantize(learning * self.unit, self.frozen)


class Trainee:
    """The model, in float32; of its parameters only the quantized matrices learn.

    It starts as the compressed model: each weight is the original's where that rounds to what is stored, and what is
    stored where it does not, as after error feedback. A parameter that transformers makes of several tensors (stacked
    experts) does not learn.

    Args:
        checkpoint: the original.
        read: the compressed tensors.
        device: where it runs.

    Attributes:
        model: of transformers.
        learning: what learns, by the name of the tensor in the checkpoint.
    """

    def __init__(self, checkpoint: Checkpoint, read: Read, device: str | torch.device) -> None:
        def values(name: str) -> Tensor:
            found = read(name)
            return found.dequantize() if isinstance(found, QuantizedTensor) else found

        with quiet():
            self.model: Any = streamed_model(replace(checkpoint, _read=values))
        self.learning: dict[str, nn.Parameter] = {}
        self._weights: dict[str, LearningWeight] = {}
        owners: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
        for module in self.model.modules():
            for attribute, parameter in module._parameters.items():
                owners[id(parameter)].append((module, attribute))
        for name, parameter in list(self.model.named_parameters()):
            if not isinstance(parameter, StreamedWeight):
                continue
            places = owners[id(parameter)]
            stored = checkpoint_name(self.model, name)
            quantized = None if stored is None else read(stored)
            if stored is None or not isinstance(quantized, QuantizedTensor):
                self._put(places, nn.Parameter(parameter.values(), requires_grad=False), None)
                continue
            quantized = _on(quantized, device)
            frozen = freeze_parts(quantized)
            start = starting_point(checkpoint.read(stored).to(device), frozen, quantized.dequantize())
            unit = float(start.square().mean().sqrt()) or 1.0
            weight, learning = LearningWeight(frozen, unit), nn.Parameter(start / unit)
            self.learning[stored], self._weights[stored] = learning, weight
            self._put(places, learning, weight)
        self.model.to(device)
        # Nothing random may happen in a model that is compared with another: it stays as it is for evaluations.
        self.model.eval().train = lambda mode=True: self.model

    def parts(self) -> dict[str, Mapping[str, Tensor]]:
        """The parts of every tensor that learns, as they are to be stored now."""
        return {
            name: weight.frozen.quantize(self.learning[name].detach() * weight.unit).parts
            for name, weight in self._weights.items()
        }

    @contextlib.contextmanager
    def as_stored(self) -> Iterator[Any]:
        """Within, the model is the one that would be read back from the file, as it is anyway; no gradients here."""
        with parametrize.cached():
            yield self.model

    @staticmethod
    def _put(places: list[tuple[nn.Module, str]], parameter: nn.Parameter, weight: LearningWeight | None) -> None:
        for owner, attribute in places:
            owner._parameters[attribute] = parameter
            if weight is not None:
                parametrize.register_parametrization(owner, attribute, weight, unsafe=True)


def starting_point(
    original: Float[Tensor, "*shape"], frozen: Frozen, stored: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Weights that round to the stored values: the original's where these do, else the stored values themselves."""
    weights = original.float()
    return torch.where(frozen.values(weights) == stored, weights, stored)


def _on(quantized: QuantizedTensor, device: str | torch.device) -> QuantizedTensor:
    return replace(quantized, parts={name: part.to(device) for name, part in quantized.parts.items()})
