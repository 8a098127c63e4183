"""Registers octavo with transformers without importing transformers.

`import octavo` must stay light, and users import the two packages in either order. If `transformers.quantizers` has
been imported already, octavo registers at once; otherwise a finder waits at the front of `sys.meta_path` for
`transformers.quantizers.auto` (the module that owns both registries), lets the ordinary finders load it, registers
right after it has run, and takes itself off the path. Nothing here imports torch or transformers.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

REGISTRY = "transformers.quantizers.auto"


def install() -> None:
    """Register now if transformers' registries exist, else as soon as they are first imported. Safe to repeat."""
    if REGISTRY in sys.modules:
        # Not sys.modules[...]: another thread may be in the middle of importing it, and this waits for that thread.
        register(importlib.import_module(REGISTRY))
    elif not any(isinstance(finder, RegistryFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, RegistryFinder())


def register(registry: ModuleType) -> None:
    """Enter octavo's quantizer and configuration into transformers' registries, once."""
    from octavo.hub import QUANT_METHOD
    from octavo.hub.configuration import OctavoConfig
    from octavo.hub.quantizer import OctavoQuantizer

    if QUANT_METHOD not in registry.AUTO_QUANTIZATION_CONFIG_MAPPING:
        registry.register_quantization_config(QUANT_METHOD)(OctavoConfig)
    if QUANT_METHOD not in registry.AUTO_QUANTIZER_MAPPING:
        registry.register_quantizer(QUANT_METHOD)(OctavoQuantizer)


class RegistryFinder(MetaPathFinder):
    """Finds `transformers.quantizers.auto` by the ordinary finders and has octavo registered once it has run."""

    def __init__(self) -> None:
        self._searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != REGISTRY or self._searching:
            return None
        self._searching = True
        try:
            spec = find_spec(fullname)
        finally:
            self._searching = False
        if spec is not None and spec.loader is not None:
            spec.loader = RegisteringLoader(spec.loader, self)
        return spec


class RegisteringLoader(Loader):
    """Runs a module by its own loader, gives the module that loader back, then registers octavo."""

    def __init__(self, loader: Loader, finder: RegistryFinder) -> None:
        self._loader = loader
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        register(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
