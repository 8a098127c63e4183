"""Weights that stay on disk: tensors without memory, read anew by each operation that needs their values.

To autograd and to the modules around it a `StreamedWeight` is a float32 tensor on the CPU of known shape. Transposing
it, or taking one expert's matrix of it, gives another one; a look-up takes the rows it needs; every other operation
gets the values themselves. So there is no operation that it does not serve, and what autograd saves for the backward
pass is again a tensor without memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils._pytree import tree_map_only

from octavo.base.errors import ModelError
from octavo.calibrate.freeing import give_back_freed_memory

GIVE_BACK = 1 << 26
"""Bytes read between two times that freed memory is given back, which takes some five milliseconds."""

_aten = torch.ops.aten
_SAME = (_aten.detach.default, _aten.alias.default)
_TRANSPOSED = (_aten.t.default, _aten.transpose.int, _aten.permute.default, _aten.numpy_T.default)


class StreamingError(ModelError):
    """A model's weights cannot stay on disk while it runs."""


@dataclass(frozen=True, eq=False)
class Stored:
    """A weight on disk.

    Attributes:
        name: its name in the model.
        shape: its shape.
        read: reads it in the dtype it is stored in: all of it (None), or one matrix of a three-dimensional weight.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[int | None], Tensor]


class Shelf:
    """The matrices read last, in float32.

    Backward uses a layer's weights again right after that layer was recomputed; what is still here is not read twice.

    Args:
        limit: bytes that all of them together may take; a larger one is not held. Room is made before reading.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._since_giving_back = 0
        self._held: OrderedDict[tuple[Stored, int | None], Tensor] = OrderedDict()

    def get(self, stored: Stored, slice: int | None) -> Tensor:
        """A weight, or one matrix of it, in float32; not to be written to."""
        key = stored, slice
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        shape = stored.shape if slice is None else stored.shape[1:]
        size = 4 * prod(shape)
        self._make_room(size)
        values = _checked(stored, stored.read(slice), shape).float()
        if size <= self._limit:
            self._held[key] = values
        return values

    def rows(self, stored: Stored, ids: Int[Tensor, "*ids"]) -> Float[Tensor, "*ids columns"]:
        """Rows of a matrix, in float32; only these are converted."""
        held = self._held.get((stored, None))
        if held is not None:
            return held[ids]
        self._make_room(4 * prod(stored.shape))
        return _checked(stored, stored.read(None), stored.shape)[ids].float()

    def _make_room(self, size: int) -> None:
        while self._held and sum(4 * tensor.numel() for tensor in self._held.values()) + size > self._limit:
            self._held.popitem(last=False)
        self._since_giving_back += size
        if self._since_giving_back >= GIVE_BACK:
            self._since_giving_back = 0
            give_back_freed_memory()


class View(NamedTuple):
    """What of a stored weight a tensor is: `slice` of a three-dimensional one or all (None), and as its transpose."""

    slice: int | None = None
    transposed: bool = False


class StreamedWeight(torch.Tensor):
    """A stored weight, one matrix of it, or the transpose of either, without its values.

    Args:
        stored: the weight.
        shelf: reads the values.
        view: what of the weight this is.
    """

    stored: Stored
    view_of: View
    _shelf: Shelf
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @staticmethod
    def __new__(cls, stored: Stored, shelf: Shelf, view: View = View()) -> StreamedWeight:
        shape = stored.shape if view.slice is None else stored.shape[1:]
        strides = torch.empty(shape, device="meta").stride()
        if view.transposed:
            shape, strides = shape[::-1], strides[::-1]
        made = torch.Tensor._make_wrapper_subclass(
            cls, shape, strides=strides, dtype=torch.float32, device=torch.device("cpu"), requires_grad=False
        )
        made.stored, made.view_of, made._shelf = stored, view, shelf
        return made

    def __init__(self, stored: Stored, shelf: Shelf, view: View = View()) -> None:
        super().__init__()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"StreamedWeight({self.stored.name}, {self.view_of})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        first = args[0] if args else None
        if isinstance(first, StreamedWeight):
            view = _viewed(func, first, args)
            if view is not None:
                return StreamedWeight(first.stored, first._shelf, view)
            if func is _aten.embedding.default and first.view_of == View() and first.ndim == 2:
                return first._shelf.rows(first.stored, args[1])
            if func._schema.is_mutable:
                raise StreamingError(f"the model writes to its weight {first.stored.name} while it runs")
        return func(
            *tree_map_only(StreamedWeight, StreamedWeight.values, args),
            **tree_map_only(StreamedWeight, StreamedWeight.values, kwargs or {}),
        )

    def values(self) -> Tensor:
        """The values, as an ordinary tensor; not to be written to."""
        values = self._shelf.get(self.stored, self.view_of.slice)
        return values.T if self.view_of.transposed else values


def _viewed(func: Any, weight: StreamedWeight, args: tuple[Any, ...]) -> View | None:
    """What of its stored weight the result is, where an operation only changes that."""
    slice, transposed = weight.view_of
    if func in _SAME:
        return weight.view_of
    if func is _aten.select.int and weight.ndim == 3 and args[1] in (0, -3):
        return View(args[2] % weight.shape[0], False)
    if func in _TRANSPOSED and weight.ndim == 2:
        axes = args[1] if func is _aten.permute.default else args[1:]
        if not axes or {axis % 2 for axis in axes} == {0, 1}:
            changes = func is not _aten.permute.default or axes[0] % 2 == 1
            return View(slice, transposed != changes)
    return None


def _checked(stored: Stored, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(values.shape) != tuple(shape):
        raise StreamingError(f"{stored.name} has shape {tuple(values.shape)} on disk and {tuple(shape)} in the model")
    return values
