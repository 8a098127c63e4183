"""What jaxtyping's import hook calls for every function of octavo under test: it checks array annotations only.

General run-time type checkers also judge protocols and names imported for type checkers only, which pyright does
better; here every `Float[Tensor, "rows cols"]` in a signature, also inside unions, tuples, lists and mappings, is
held against the values of a call, with one meaning of each name throughout the call.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import AbstractArray


class ShapeError(TypeError):
    """A tensor's dtype or shape is not what the signature says."""


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arrays among a function's arguments and in its result; functions without any stay as they are."""
    annotations = dict(getattr(function, "__annotations__", {}))
    checked = {name: annotation for name, annotation in annotations.items() if _mentions_arrays(annotation)}
    if not checked:
        return function
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checking(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            if name in checked and not _fits(value, checked[name]):
                raise ShapeError(f"{name}: expected {checked[name]}, got {_describe(value)}")
        result = function(*args, **kwargs)
        if "return" in checked and not _fits(result, checked["return"]):
            raise ShapeError(f"result: expected {checked['return']}, got {_describe(result)}")
        return result

    return checking


def _is_array(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, AbstractArray)


def _mentions_arrays(annotation: Any) -> bool:
    return _is_array(annotation) or any(map(_mentions_arrays, typing.get_args(annotation)))


def _fits(value: Any, annotation: Any) -> bool:
    if not _mentions_arrays(annotation):
        # Within a union, None must not pass for an array's alternative: plain classes are told apart.
        return isinstance(value, annotation) if inspect.isclass(annotation) and not _generic(annotation) else True
    if _is_array(annotation):
        return isinstance(value, annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _fits(value, arguments[0])
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, alternative) for alternative in arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
        return isinstance(value, tuple) and len(value) == len(arguments) and all(map(_fits, value, arguments))
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(item, arguments[1]) for item in value.values())
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return isinstance(value, Sequence) and all(_fits(item, arguments[0]) for item in value)
    return True


def _generic(annotation: Any) -> bool:
    return typing.get_origin(annotation) is not None or getattr(annotation, "_is_protocol", False)


def _describe(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    return f"{type(value).__name__} {value!r:.80}"
