"""Fields of nested frozen dataclasses by dotted names: listed, and replaced by what TOML or a command line says."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn, TypeVar

from octavo.base.errors import ConfigurationError

C = TypeVar("C")


def fields_of(config: Any, start: str = "") -> dict[str, Any]:
    """Every field by its dotted name, such as `schedule.warmup`."""
    found: dict[str, Any] = {}
    for each in dataclasses.fields(config):
        value, name = getattr(config, each.name), f"{start}{each.name}"
        found |= fields_of(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
    return found


def replaced(config: C, name: str, value: Any) -> C:
    """The config with another value of the field with a dotted name.

    Args:
        value: as TOML has it, or a text, which is read as the field's type.

    Raises:
        ConfigurationError: there is no such field, or the value is of the wrong type.
    """
    return _replaced(config, name.split("."), value, name, [*fields_of(config)])


def dotted(values: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """Nested tables as one, by dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= dotted(value, f"{start}{key}.") if isinstance(value, Mapping) else {f"{start}{key}": value}
    return found


def assignments(texts: Sequence[str]) -> dict[str, str]:
    """From `schedule.warmup=100` to names and values.

    Raises:
        ConfigurationError: a text without an equals sign.
    """
    found = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise ConfigurationError(f"{text!r} assigns nothing", "write for instance schedule.warmup=100")
        found[name.strip()] = value.strip()
    return found


def _replaced(config: Any, path: Sequence[str], value: Any, name: str, known: Sequence[str]) -> Any:
    hints = typing.get_type_hints(type(config))
    own = {each.name: hints[each.name] for each in dataclasses.fields(config)}
    head, *rest = path
    section = dataclasses.is_dataclass(own.get(head))
    if head not in own or section != bool(rest):
        raise ConfigurationError(f"there is no setting {name!r}", _nearest(name, known))
    if rest:
        return dataclasses.replace(config, **{head: _replaced(getattr(config, head), rest, value, name, known)})
    return dataclasses.replace(config, **{head: _converted(value, own[head], name)})


def _nearest(name: str, known: Sequence[str]) -> str:
    # The last part alone is what people mistype, and they forget the section.
    ends = {full.rpartition(".")[2]: full for full in reversed(known)}
    near = difflib.get_close_matches(name, known, 1, 0.6)
    near = near or [ends[end] for end in difflib.get_close_matches(name.rpartition(".")[2], ends, 1, 0.5)]
    return f"did you mean {near[0]!r}?" if near else f"the settings are {', '.join(known)}"


def _converted(value: Any, kind: Any, name: str) -> Any:
    """A value as the type of its field; texts are read as numbers and truth values where those are meant."""
    if kind is bool:
        truths = {"true": True, "false": False}
        if isinstance(value, str) and value.lower() in truths:
            return truths[value.lower()]
        return value if isinstance(value, bool) else _refuse(value, "true or false", name)
    if kind is int or kind is float:
        if isinstance(value, str):
            try:
                value = kind(value)
            except ValueError:
                _refuse(value, "a whole number" if kind is int else "a number", name)
        if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
            _refuse(value, "a whole number" if kind is int else "a number", name)
        if not math.isfinite(value):
            _refuse(value, "a finite number", name)
        return kind(value)
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        return value if value in choices else _refuse(value, f"one of {', '.join(choices)}", name)
    if typing.get_origin(kind) is tuple:
        items = [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            _refuse(value, "a list of texts", name)
        return tuple(items)
    return value if isinstance(value, str) else _refuse(value, "a text", name)


def _refuse(value: Any, wanted: str, name: str) -> NoReturn:
    raise ConfigurationError(f"{name} is {value!r}", f"give {wanted}")
