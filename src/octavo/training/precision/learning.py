"""What takes the place of a compressed model's tensors while they learn: values as they are stored, gradients straight
through the rounding.

A matrix learns as weights whose codes follow, and by its scales, where they are stored finely enough to move by what is
learned; codebooks, groups and outliers stay. A step teaches a scale more than a weight, since it sums over a block. A
vector that is kept, such as a norm's gains, learns in its own dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from octavo.compress.tuning.vectors import VectorTunable
from octavo.formats.column_groups import ColumnGroups, members
from octavo.formats.frozen import Frozen
from octavo.formats.scaling import blocks_of
from octavo.formats.tensor import QuantizedTensor
from octavo.formats.tuning import tunable

RATIO = 5.0
"""What a step moves the logarithm of a scale, or the share of a gain, over what it moves a weight in its unit."""


class _Learned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, module: LearningWeight, *logarithms: Tensor) -> Tensor:
        values = module.quantized(weights, logarithms).dequantize().view(weights.shape)
        ctx.module = module
        if logarithms:
            ctx.save_for_backward(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        saved = ctx.saved_tensors
        scales = ctx.module.summed(gradients[0] * saved[0]) if saved else ()
        return gradients[0], None, *scales


class LearningWeight(nn.Module):
    """Takes the place of a matrix: from what learns, in units of the weights' root mean square, to quantized values.

    In these units one learning rate suits all matrices, since steps of Adam are as long whatever a gradient's size.

    Args:
        start: the tensor as the compression left it.
        frozen: its format and parts, on the device.
        unit: root mean square of the weights at the start.
    """

    def __init__(self, start: QuantizedTensor, frozen: Frozen, unit: float) -> None:
        super().__init__()
        self.frozen, self.unit, self._start = frozen, unit, start
        self._tunable = None if start.format.outliers else tunable(start, torch.device("cpu"))
        sizes = {} if self._tunable is None else self._tunable.sizes
        zeros = {name: torch.zeros(size) for name, size in sizes.items() if name.split("_")[0] == "scales"}
        self.logarithms = nn.ParameterDict(zeros)

    def forward(self, learning: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        found = _Learned.apply(learning * self.unit, self, *self.logarithms.values())
        assert isinstance(found, Tensor)
        return found

    def parts(self, learning: Float[Tensor, "*shape"]) -> Mapping[str, Tensor]:
        """The parts as they are to be stored now."""
        return self.quantized(learning * self.unit, tuple(self.logarithms.values())).parts

    @torch.no_grad()
    def quantized(self, weights: Float[Tensor, "*shape"], logarithms: tuple[Tensor, ...]) -> QuantizedTensor:
        """Codes of weights by the scales of the start, with the scales as they are now."""
        found = self.frozen.quantize(weights)
        if self._tunable is None or not logarithms:
            return found
        moved = self._tunable.stored(
            {name: RATIO * logarithm for name, logarithm in zip(self.logarithms, logarithms, strict=True)}
        ).parts
        parts = {
            name: moved[name].to(part.device) if name in self.logarithms else part for name, part in found.parts.items()
        }
        return QuantizedTensor(found.format, found.shape, parts)

    def summed(self, product: Float[Tensor, "*shape"]) -> Iterator[Tensor]:
        """Gradients of the logarithms, from the products of values and their gradients."""
        matrix = product.reshape(-1, product.shape[-1])
        groups = {"scales": matrix}
        if isinstance(self._start.format.element, ColumnGroups):
            groups = {
                f"scales_{number}": matrix[:, columns.to(matrix.device)] for number, columns, _ in members(self._start)
            }
        for name, logarithm in self.logarithms.items():
            columns = groups[name]
            blocks = blocks_of(columns, self._start.format.scaling.run(columns.shape[1]))
            sums = torch.cat([block.sum(-1) for block in blocks], 1)
            yield RATIO * (sums if len(logarithm) == len(sums) else sums.sum(0, keepdim=True))


class LearningVector(nn.Module):
    """Takes the place of a vector that is kept.

    Args:
        vector: as it is stored.
        device: where it is computed with.
    """

    def __init__(self, vector: Float[Tensor, " n"], device: str | torch.device) -> None:
        super().__init__()
        self._function = VectorTunable(vector, torch.device(device))
        self.deviation = nn.Parameter(torch.zeros(vector.shape))

    def forward(self, original: Tensor) -> Float[Tensor, " n"]:
        """The vector now; the Parameter that was there is not looked at."""
        values = self._function.values({"vector": RATIO * self.deviation})
        return self.parts()[""].to(values) + (values - values.detach())

    def parts(self) -> Mapping[str, Tensor]:
        """The vector as it is to be stored now."""
        return self._function.parts({"vector": RATIO * self.deviation.detach()})
