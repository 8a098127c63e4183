"""What products with packed weights may be computed in."""

from __future__ import annotations

from typing import Literal

Arithmetic = Literal["exact", "int8"]
"""float32, or whole numbers of eight bits where there is such a path (octavo.kernels.product)."""
