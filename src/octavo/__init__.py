"""octavo: fold a neural network into a fixed budget of bits, and prove what was lost.

    import octavo
    octavo.compress("smollm2-135m", "out", bits=3.0)
    transformers.AutoModelForCausalLM.from_pretrained("out")

Importing octavo imports neither torch nor transformers: the names below are fetched from their rooms when they are
first used, and transformers learns of octavo's checkpoints when its own registries are imported, before or after this
package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from octavo.hub.hook import install as _install

if TYPE_CHECKING:
    from octavo.base.errors import OctavoError
    from octavo.formats import Format, Importance, QuantizedTensor, parse
    from octavo.hub.export import export
    from octavo.hub.generate import generate
    from octavo.hub.inspection import inspect
    from octavo.models.evaluate import evaluate

__version__ = "0.1.0"

_HOMES = {
    "Format": "octavo.formats",
    "Importance": "octavo.formats",
    "OctavoError": "octavo.base.errors",
    "QuantizedTensor": "octavo.formats",
    "evaluate": "octavo.models.evaluate",
    "export": "octavo.hub.export",
    "generate": "octavo.hub.generate",
    "inspect": "octavo.hub.inspection",
    "parse": "octavo.formats",
}

__all__ = [
    "Format",
    "Importance",
    "OctavoError",
    "QuantizedTensor",
    "compress",
    "evaluate",
    "export",
    "generate",
    "inspect",
    "parse",
]


def __getattr__(name: str) -> Any:
    if name == "compress":
        # The room itself, which can be called: importing it makes it an attribute of this package anyway.
        return importlib.import_module("octavo.compress")
    if name not in _HOMES:
        raise AttributeError(f"module 'octavo' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_install()
