"""How restless quantized weights are: the share of indices that a step changes.

Weight decay moves no function of scaled weights, since scales follow, but makes each step larger beside them; how often
indices flip shows what that does.
"""

from __future__ import annotations

from jaxtyping import UInt8
from torch import Tensor, nn
from torch.optim import Optimizer

from octavo.base.errors import ConfigurationError
from octavo.formats.frozen import FrozenCodebook
from octavo.layers.fake_quantized import FakeQuantizedLinear
from octavo.training.precision.starting import whole_weight


class FlipRate:
    """A hook of octavo.training.trainer that measures now and then; to come after `StartQuantizing`.

    Formats whose codebooks do not stay are left out. Memory: one byte a weight, for one step in `every`.

    Args:
        every: steps between two measurements.

    Attributes:
        rates: steps, and the share of indices that each of them changed.
    """

    def __init__(self, every: int = 100) -> None:
        if every < 2:
            raise ConfigurationError(f"a measurement takes two steps, not {every}", "give at least 2")
        self._every = every
        self._before: dict[str, tuple[FrozenCodebook, UInt8[Tensor, "rows columns"]]] = {}
        self.rates: list[tuple[int, float]] = []

    def __call__(self, step: int, model: nn.Module, optimizer: Optimizer) -> None:
        if step % self._every == 0:
            self._before = {
                name: (layer.frozen, layer.frozen.codes(whole_weight(layer)))
                for name, layer in model.named_modules()
                if isinstance(layer, FakeQuantizedLinear) and isinstance(layer.frozen, FrozenCodebook)
            }
        elif self._before:
            flipped = counted = 0
            for name, (frozen, before) in self._before.items():
                layer = model.get_submodule(name)
                assert isinstance(layer, FakeQuantizedLinear)
                flipped += int((frozen.codes(whole_weight(layer)) != before).sum())
                counted += before.numel()
            self.rates.append((step - 1, flipped / counted))
            self._before = {}
