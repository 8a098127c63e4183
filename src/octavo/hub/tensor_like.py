"""What stands in for a weight: not a tensor, but every torch function takes it for one.

Model code writes `F.linear(x, self.weight)`, `torch.addmm(bias, x, self.weight)`, `self.experts_weight[i]`,
`self.weight.dtype`. Replacing the *weight* rather than the layer keeps all of that code: whatever the module's class,
its forward runs unchanged, and torch hands its function to `__torch_function__` here, which dequantizes for the length
of that one call. Two functions are served without a whole dense weight: `embedding` decodes the rows it looks up, and
`linear` multiplies few inputs by the packed weight itself where its format can be (octavo.formats.product), and goes
over a very large weight (a vocabulary) in slabs of rows. Shape, dtype and device cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from octavo.formats.rows import SLAB

# Slabs are so many rows high or a multiple of it, so that matrix products are blocked as those of the whole weight.
ROWS = 16


class TensorLike:
    """Base of what stands in for a weight. Subclasses give `shape`, `dtype`, `device`, `dense` and `rows`."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    requires_grad = False
    # transformers' initializers leave a weight alone that carries this mark.
    _is_hf_initialized = True

    def dense(self) -> Tensor:
        """The whole weight in the model's dtype; the caller drops it after use."""
        raise NotImplementedError

    def rows(self, index: Tensor) -> Tensor:
        """The entries `index` (1-D, int64) of the first axis, in the model's dtype."""
        return self.dense()[index]

    def take(self, start: int, stop: int) -> Tensor:
        """The entries start to stop of the first axis, in the model's dtype."""
        return self.dense()[start:stop]

    def slabs(self, height: int) -> Iterator[Tensor]:
        """The weight in order, in pieces of at most `height` entries of the first axis where that saves memory."""
        yield self.dense()

    def product(self, inputs: Tensor) -> Tensor | None:
        """Few inputs times the transpose of the weight as it lies packed, float32; None where it has to be dense."""
        return None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        return len(self.shape)

    def size(self, axis: int | None = None) -> Any:
        return self.shape if axis is None else self.shape[axis]

    def numel(self) -> int:
        return self.shape.numel()

    # As of a tensor: the dense weight, converted. A parent module's own `to` does not come here.
    def to(self, *args: Any, **kwargs: Any) -> Any:
        return self.dense().to(*args, **kwargs)

    def type(self, *args: Any, **kwargs: Any) -> Any:
        return self.dense().type(*args, **kwargs)

    def float(self) -> Any:
        return self.dense().float()

    def half(self) -> Any:
        return self.dense().half()

    def bfloat16(self) -> Any:
        return self.dense().bfloat16()

    def double(self) -> Any:
        return self.dense().double()

    def cpu(self) -> Any:
        return self.dense().cpu()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Tensor:
        if isinstance(key, Tensor) and key.ndim == 0 and not key.is_floating_point() and key.dtype != torch.bool:
            key = int(key)
        if isinstance(key, int) and -len(self) <= key < len(self):
            return self.take(key % len(self), key % len(self) + 1)[0]
        if isinstance(key, slice) and key.step in (None, 1):
            start, stop, _ = key.indices(len(self))
            return self.take(start, max(start, stop))
        return self.dense()[key]

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.linear:
            return _linear(*args, **kwargs)
        if function is F.embedding:
            return _embedding(*args, **kwargs)
        args, kwargs = tree_map(_dense, (args, kwargs))
        return function(*args, **kwargs)


def _dense(value: Any) -> Any:
    return value.dense() if isinstance(value, TensorLike) else value


def _linear(input: Tensor, weight: Any, bias: Any = None) -> Tensor:
    input, bias = _dense(input), _dense(bias)
    if isinstance(weight, TensorLike) and (product := weight.product(input)) is not None:
        return (product if bias is None else product + bias).to(input.dtype)
    if not isinstance(weight, TensorLike) or weight.numel() <= SLAB or weight.ndim != 2:
        return F.linear(input, _dense(weight), bias)
    results, start = [], 0
    for slab in weight.slabs(max(1, SLAB // weight.shape[1] // ROWS) * ROWS):
        part = None if bias is None else bias[start : start + len(slab)]
        results.append(F.linear(input, slab, part))
        start += len(slab)
    return torch.cat(results, dim=-1)


def _embedding(
    input: Tensor,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    *rest: Any,
    **options: Any,
) -> Tensor:
    if not isinstance(weight, TensorLike) or max_norm is not None:
        return F.embedding(_dense(input), _dense(weight), padding_idx, max_norm, *rest, **options)
    # Padding matters to gradients only, and there are none.
    index, inverse = torch.unique(input, return_inverse=True)
    if index.numel() and not 0 <= int(index[0]) <= int(index[-1]) < len(weight):
        raise IndexError(f"embedding index outside 0 to {len(weight) - 1}")
    return F.embedding(inverse, weight.rows(index.to(weight.device)))


def _forward(name: str) -> Any:
    def method(self: TensorLike, *args: Any) -> Any:
        return getattr(self.dense(), name)(*(_dense(value) for value in args))

    return method


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "matmul", "rmatmul", "neg", "pow"):
    setattr(TensorLike, f"__{_name}__", _forward(f"__{_name}__"))
