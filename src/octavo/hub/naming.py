"""Where each entry of a checkpoint goes in a transformers model: its renamings and conversions, applied to names alone.

Checkpoints and models of transformers name the same tensor differently: old names are renamed, a base model lacks the
prefix of the model with a head, experts are fused. The loader applies these rules while it reads; this module applies
the same rules, by the same functions, beforehand, so that the model can be prepared for what will arrive.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key


@dataclass(frozen=True)
class Destination:
    """Where an entry goes.

    Attributes:
        key: its name in the model's namespace; for a conversion's source, the name it would have if it were not fused.
        plain: for a conversion's source, its name as converters see it: renamed, the base prefix not yet adjusted.
        converter: the conversion that would take it, or None.
        pattern: the converter's source pattern that matched it.
        targets: names of the Parameters the conversion makes.
    """

    key: str
    plain: str = ""
    converter: Any = None
    pattern: str | None = None
    targets: tuple[str, ...] = ()


class Naming:
    """The naming rules between checkpoints and one model.

    Args:
        model: a transformers model, before any of its weights is replaced.
    """

    def __init__(self, model: Any) -> None:
        rules = get_model_conversion_mapping(model)
        self._renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        self._converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self._patterns = {p: c for c in self._converters for p in c.source_patterns}
        self._prefix = model.base_model_prefix
        self._known = model.state_dict()

    def destinations(self, names: Iterable[str]) -> dict[str, Destination]:
        """Where each name goes, in the loader's order (some renamings depend on it)."""
        return {name: self._destination(name) for name in sorted(names, key=dot_natural_key)}

    def _destination(self, name: str) -> Destination:
        final, pattern = rename_source_key(name, self._renamings, self._converters, self._prefix, self._known)
        if final not in self._known and name in self._known:
            # The loader's own second thought: a name that needed no renaming.
            return Destination(name)
        if pattern is None:
            return Destination(final)
        converter = self._patterns[pattern]
        first = converter.target_patterns[0]
        targets = tuple(final.replace(first, target, 1) for target in converter.target_patterns)
        plain, _ = rename_source_key(name, self._renamings, [])
        bare, _ = rename_source_key(name, self._renamings, self._converters)
        prefix = f"{self._prefix}."
        if final == prefix + bare:
            key = prefix + plain
        elif bare == prefix + final:
            key = plain.removeprefix(prefix)
        else:
            key = plain
        return Destination(key, plain, converter, pattern, targets)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def shape(self, key: str) -> Any:
        """Shape of one of the model's own tensors."""
        return self._known[key].shape


def excepting(converter: Any, keys: frozenset[str]) -> Any:
    """A copy of `converter` that does not match the (renamed) entries in `keys`."""

    class Excepting(type(converter)):
        def rename_source_key(self, source_key: str) -> tuple[str, str | None]:
            if source_key in keys:
                return source_key, None
            return super().rename_source_key(source_key)

    copied = Excepting(
        list(converter._original_source_patterns),
        list(converter._original_target_patterns),
        operations=converter.operations,
    )
    copied.scope_prefix, copied.base_model_prefix = converter.scope_prefix, converter.base_model_prefix
    return copied
