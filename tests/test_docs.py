"""What the documentation shows is run: Python blocks page by page, and every format string of the grammar."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EMBEDDED = '"smollm2-135m"'
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


def _blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Fenced blocks of a language, each with the number of its first line."""
    text = page.read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, match.start(1)), match[1]) for match in found]


@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page, "python")], ids=lambda page: page.stem)
def test_python_blocks_run(
    page: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page's blocks run in order, in one namespace, the tiny model standing in for the embedded one."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, source in _blocks(page, "python"):
        if EMBEDDED in source:
            source = source.replace(EMBEDDED, repr(str(request.getfixturevalue("tiny_llama"))))
        # Lines are padded so that a traceback points into the page.
        exec(compile("\n" * line + source, str(page), "exec"), namespace)


def _shown_formats() -> list[str]:
    blocks = [block for page in PAGES for _, block in _blocks(page, "formats")]
    return [line.strip() for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("text", _shown_formats())
def test_shown_formats_parse(text: str) -> None:
    from octavo.formats import parse

    assert str(parse(text)) == text
