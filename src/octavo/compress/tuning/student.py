"""The compressed model while it is tuned: every weight a function of its continuous parts."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from octavo.calibrate.naming import checkpoint_name
from octavo.calibrate.streamed import StreamedWeight
from octavo.checkpoints import Checkpoint
from octavo.compress.tuning.weight import TunedWeight, put, tuned_weight
from octavo.formats.tensor import QuantizedTensor
from octavo.formats.tuning import Deviations
from octavo.models.quiet import quiet
from octavo.models.streaming import streamed_model

Read = Callable[[str], QuantizedTensor | Tensor]
"""The compressed form of a tensor of the checkpoint: a quantized one, or the tensor itself where it is kept."""


class Student:
    """A compressed model whose continuous parts can learn.

    A Parameter that transformers makes of several tensors (stacked experts) does not learn, nor does one whose format
    leaves nothing to tune; they are held dense.

    Args:
        checkpoint: the original: its configuration, and the names and shapes of its tensors.
        read: the compressed tensors.
        excluded: names of tensors that are to stay as they are.
        device: where it runs.
    """

    def __init__(self, checkpoint: Checkpoint, read: Read, excluded: Collection[str], device: str) -> None:
        def values(name: str) -> Tensor:
            found = read(name)
            return found.dequantize() if isinstance(found, QuantizedTensor) else found

        with quiet():
            self.model = streamed_model(replace(checkpoint, _read=values))
        owners: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
        for module in self.model.modules():
            for attribute, parameter in module._parameters.items():
                owners[id(parameter)].append((module, attribute))
        self.weights: list[TunedWeight] = []
        for name, parameter in list(self.model.named_parameters()):
            stored = checkpoint_name(self.model, name)
            weight = None
            if stored is not None and stored not in excluded:
                weight = tuned_weight(stored, read(stored), parameter.shape, torch.device(device))
            if weight is not None:
                self.weights.append(weight)
                for owner, attribute in owners[id(parameter)]:
                    put(owner, attribute, weight)
            elif isinstance(parameter, StreamedWeight):
                dense = nn.Parameter(parameter.values(), requires_grad=False)
                for owner, attribute in owners[id(parameter)]:
                    owner._parameters[attribute] = dense
        self.model.to(device)

    def now(self) -> list[Deviations]:
        """All parameters as they stand."""
        return [weight.now() for weight in self.weights]

    @torch.no_grad()
    def go_back(self, moment: list[Deviations]) -> None:
        """Take parameters as they stood."""
        for weight, deviations in zip(self.weights, moment, strict=True):
            for part, deviation in deviations.items():
                weight.deviations[part].copy_(deviation)

    @contextlib.contextmanager
    def as_stored(self) -> Iterator[Any]:
        """Within, the model is the one that would be read back from the file."""
        with contextlib.ExitStack() as stack:
            for weight in self.weights:
                stack.enter_context(weight.as_stored())
            yield self.model
