"""In which form a model's weights are kept in memory."""

from __future__ import annotations

from typing import Literal

Keeping = Literal["resident", "stored"]
"""As products read them fastest (octavo.formats.resident), or as the file has them, which never takes more memory."""
