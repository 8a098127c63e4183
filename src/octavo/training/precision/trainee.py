"""A compressed model whose weights, scales and gains learn within the formats that the compression gave them."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
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
from octavo.models.quiet import quiet
from octavo.models.streaming import streamed_model
from octavo.training.precision.learning import LearningVector, LearningWeight

Read = Callable[[str], QuantizedTensor | Tensor]
"""The compressed form of a tensor of the checkpoint: a quantized one, or the tensor itself where it is kept."""


class Trainee:
    """The model, in float32; the quantized matrices learn, and the vectors that are kept.

    It starts as the compressed model: each weight is the original's where that rounds to what is stored, and what is
    stored where it does not, as after error feedback. A parameter that transformers makes of several tensors (stacked
    experts) does not learn.

    Args:
        checkpoint: the original.
        read: the compressed tensors.
        excluded: names of tensors that are to stay as they are.
        device: where it runs.

    Attributes:
        model: of transformers.
    """

    def __init__(
        self, checkpoint: Checkpoint, read: Read, excluded: Collection[str], device: str | torch.device
    ) -> None:
        def values(name: str) -> Tensor:
            found = read(name)
            return found.dequantize() if isinstance(found, QuantizedTensor) else found

        with quiet():
            self.model: Any = streamed_model(replace(checkpoint, _read=values))
        self._weights: dict[str, tuple[nn.Parameter, LearningWeight]] = {}
        self._vectors: dict[str, LearningVector] = {}
        owners: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
        for module in self.model.modules():
            for attribute, parameter in module._parameters.items():
                owners[id(parameter)].append((module, attribute))
        for name, parameter in list(self.model.named_parameters()):
            places = owners[id(parameter)]
            stored = checkpoint_name(self.model, name)
            found = None if stored is None else read(stored)
            if isinstance(parameter, StreamedWeight):
                if stored is not None and isinstance(found, QuantizedTensor):
                    self._weights[stored] = self._matrix(checkpoint.read(stored), found, places, device)
                else:
                    self._put(places, nn.Parameter(parameter.values(), requires_grad=False), None)
            elif stored is not None and stored not in excluded and isinstance(found, Tensor) and found.ndim == 1:
                self._vectors[stored] = LearningVector(found, device)
                self._put(places, nn.Parameter(parameter.detach(), requires_grad=False), self._vectors[stored])
        self.model.to(device)
        # Nothing random may happen in a model that is compared with another: it stays as it is for evaluations.
        self.model.eval().train = lambda mode=True: self.model

    def parts(self) -> dict[str, Mapping[str, Tensor]]:
        """The parts of every tensor that learns, as they are to be stored now."""
        found = {name: weight.parts(learning.detach()) for name, (learning, weight) in self._weights.items()}
        return found | {name: vector.parts() for name, vector in self._vectors.items()}

    @contextlib.contextmanager
    def as_stored(self) -> Iterator[Any]:
        """Within, the model is the one that would be read back from the file, as it is anyway; no gradients here."""
        with parametrize.cached():
            yield self.model

    def _matrix(
        self, original: Tensor, start: QuantizedTensor, places: list[tuple[nn.Module, str]], device: str | torch.device
    ) -> tuple[nn.Parameter, LearningWeight]:
        quantized = _on(start, device)
        frozen = freeze_parts(quantized)
        weights = starting_point(original.to(device), frozen, quantized.dequantize())
        unit = float(weights.square().mean().sqrt()) or 1.0
        weight, learning = LearningWeight(start, frozen, unit), nn.Parameter(weights / unit)
        self._put(places, learning, weight)
        return learning, weight

    @staticmethod
    def _put(places: list[tuple[nn.Module, str]], parameter: nn.Parameter, weight: nn.Module | None) -> None:
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
