"""A format that loses nothing, to tell what a cache does from what rounding does."""

from __future__ import annotations

LOSSLESS = "int@1 b1 absmax:fp32"
"""A sign and a float32 magnitude for every number: any number but zero comes back as it was."""
