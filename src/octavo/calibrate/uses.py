"""Watches every product of a model with one of its weights, whatever module it is in.

A module hook sees `nn.Linear`, but not transformers' `Conv1D`, nor the experts of a mixture, which are slices of one
three-dimensional Parameter. What they have in common are a few torch functions: `linear`, `addmm`, `matmul` and
`embedding`. `WeightUses` is a torch-function mode: while it is active, each call of these with a model's weight is
reported, with the weight found by its address, so that a slice or a transposed view is recognized too. A streamed
weight has no address and says itself what it is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from octavo.calibrate.keeping import keep
from octavo.calibrate.streamed import StreamedWeight

_MATMUL = (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm)


@dataclass(frozen=True)
class Use:
    """One product: outputs = inputs @ weight[slice] or its transpose, or a look-up of rows.

    Attributes:
        name: the parameter's name.
        slice: which matrix of a three-dimensional parameter, else 0.
        by_input: the stored matrix is [in, out], as Conv1D keeps it, not [out, in].
        inputs: gives, once and during the backward pass, [..., in], or the token ids of a look-up.
        outputs: [..., out]; for a look-up the rows found.
        lookup: this is a look-up.
    """

    name: str
    slice: int
    by_input: bool
    inputs: Callable[[], Tensor]
    outputs: Tensor
    lookup: bool


class WeightUses(TorchFunctionMode):
    """While active, calls `report` for each use of one of `weights`, and uses what it returns as the use's result.

    Args:
        weights: two- or three-dimensional parameters by name.
        report: told of each use; returns the outputs to go on with.
    """

    def __init__(self, weights: Mapping[str, Tensor], report: Callable[[Use], Tensor]) -> None:
        super().__init__()
        streamed = {name: tensor for name, tensor in weights.items() if isinstance(tensor, StreamedWeight)}
        self._streamed = {tensor.stored: name for name, tensor in streamed.items()}
        self._weights = sorted(
            ((tensor.data_ptr(), name, tensor) for name, tensor in weights.items() if name not in streamed),
            key=lambda item: item[0],
        )
        self._starts = [start for start, _, _ in self._weights]
        self._report = report

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        lookup = func is functional.embedding
        if func is functional.linear:
            inputs, weight, flipped = args[0], _argument(1, "weight", args, kwargs), False
        elif lookup:
            inputs, weight, flipped = args[0], _argument(1, "weight", args, kwargs), True
        elif func is torch.addmm:
            inputs, weight, flipped = args[1], args[2], True
        elif func in _MATMUL:
            inputs, weight, flipped = args[0], args[1], True
        else:
            return func(*args, **kwargs)
        found = self._find(weight)
        if found is None:
            return func(*args, **kwargs)
        name, slice, transposed = found
        # Kept before the product is made: a layer that is recomputed stops at the last thing it kept.
        inputs = keep(inputs)
        outputs = func(*args, **kwargs)
        return self._report(Use(name, slice, flipped != transposed, inputs, outputs, lookup))

    def _find(self, weight: Any) -> tuple[str, int, bool] | None:
        """(name, slice, whether the view is transposed) of a matrix that is a weight or a whole matrix of one."""
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            return None
        if isinstance(weight, StreamedWeight):
            name = self._streamed.get(weight.stored)
            return None if name is None else (name, weight.view_of.slice or 0, weight.view_of.transposed)
        address = weight.data_ptr()
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        start, name, owner = self._weights[index]
        rows, columns = owner.shape[-2:]
        step = rows * columns * owner.element_size()
        slice, rest = divmod(address - start, step)
        if rest or slice >= owner.numel() // (rows * columns) or weight.dtype != owner.dtype:
            return None
        if weight.shape == (rows, columns) and weight.stride() == owner.stride()[-2:]:
            return name, slice, False
        if weight.shape == (columns, rows) and weight.stride() == owner.stride()[-2:][::-1]:
            return name, slice, True
        return None


def _argument(position: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[position] if len(args) > position else kwargs.get(name)
