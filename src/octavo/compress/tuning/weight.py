"""A weight while it is tuned: a module in the place of the Parameter, whose values it computes at each use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint as recomputed

from octavo.compress.tuning.vectors import VectorTunable
from octavo.formats.tensor import QuantizedTensor
from octavo.formats.tuning import Deviations, Tunable, tunable


class TunedWeight(nn.Module):
    """A weight as a function of its continuous parts, which alone learn.

    Args:
        name: of the tensor in the checkpoint.
        function: what computes the values.
        shape: of the Parameter.
    """

    def __init__(self, name: str, function: Tunable | VectorTunable, shape: torch.Size) -> None:
        super().__init__()
        self.name, self.function, self.shape = name, function, shape
        zeros = {part: torch.zeros(size, device=function.device) for part, size in function.sizes.items()}
        self.deviations = nn.ParameterDict(zeros)
        self._stored: Tensor | None = None

    def forward(self, original: Tensor) -> Tensor:
        """The values; the Parameter that was there is not looked at."""
        if self._stored is not None:
            return self._stored
        return self.function.values(dict(self.deviations)).view(self.shape)

    def now(self) -> Deviations:
        """The parameters as they stand."""
        return {part: deviation.detach().clone() for part, deviation in self.deviations.items()}

    def parts(self) -> dict[str, Tensor]:
        """The tensor's parts, as they are to be stored with these parameters."""
        if isinstance(self.function, VectorTunable):
            return self.function.parts(self.now())
        return dict(self.function.stored(self.now()).parts)

    @contextlib.contextmanager
    def as_stored(self) -> Iterator[None]:
        """Within, the values are those that come back from the file, held dense."""
        if isinstance(self.function, VectorTunable):
            values = self.function.parts(self.now())[""].float()
        else:
            values = self.function.stored(self.now()).dequantize()
        self._stored = values.view(self.shape).to(self.function.device)
        try:
            yield
        finally:
            self._stored = None


def tuned_weight(
    name: str, stored: QuantizedTensor | Tensor, shape: torch.Size, device: torch.device
) -> TunedWeight | None:
    """The weight behind a tensor as it is stored; None where nothing about it may be tuned."""
    function = None
    if isinstance(stored, QuantizedTensor):
        function = tunable(stored, device)
    elif stored.ndim == 1 and stored.is_floating_point():
        function = VectorTunable(stored, device)
    return None if function is None else TunedWeight(name, function, shape)


def put(owner: nn.Module, attribute: str, weight: TunedWeight) -> None:
    """Let a weight take the place of a module's Parameter.

    For the backward pass the module keeps its inputs and computes the weight again: dense weights live for one use.
    """
    owner._parameters[attribute] = nn.Parameter(torch.empty(0), requires_grad=False)
    parametrize.register_parametrization(owner, attribute, weight, unsafe=True)
    if "forward" not in vars(owner):
        # Nothing random happens in a model that is not trained.
        owner.forward = partial(recomputed, owner.forward, use_reentrant=False, preserve_rng_state=False)
