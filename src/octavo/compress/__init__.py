"""The main job: a checkpoint and a budget of bits come in, a smaller checkpoint goes out.

    checkpoint → calibrate → plan (which format for which tensor) → quantize, tensor by tensor → write

from octavo.compress import compress
compress("smollm2-135m", "folded", bits=3.0)
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from octavo.compress.plan import Plan, PlanEntry
from octavo.compress.running import CompressionResult, compress, plan
from octavo.compress.transforming import Transform

__all__ = ["CompressionResult", "Plan", "PlanEntry", "Transform", "compress", "plan"]


class _Callable(ModuleType):
    """The room and its main function share a name: `octavo.compress(...)` is `octavo.compress.compress(...)`."""

    def __call__(self, *args: Any, **kwargs: Any) -> CompressionResult:
        return compress(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
