"""What the tests of the main job share."""

from __future__ import annotations

from pathlib import Path

import pytest

TEXT = "Folded once it is a folio, folded twice a quarto, folded three times an octavo; it is one sheet all the time. "


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file long enough to calibrate on."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"{number} {TEXT}" for number in range(700)))
    return path
