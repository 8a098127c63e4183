"""The habits of the house that no linter knows: sizes, spelling, what importing costs, and what the README promises."""

from __future__ import annotations

import re
import shlex
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path

import jaxtyping
import pytest
import torch

ROOT = Path(__file__).parents[1]
SOURCES = sorted(ROOT.glob("src/**/*.py"))
PYTHON = sorted([*SOURCES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/**/*.py")])
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
TEXTS = [*PYTHON, *PAGES, ROOT / "CHANGELOG.md", ROOT / "Makefile", ROOT / "pyproject.toml", *ROOT.glob("src/**/*.cpp")]

MAX_LINES = 600
MAX_MEDIAN_LINES = 150
MAX_DEPENDENCIES = 10

BRITISH = re.compile(
    r"\b\w*(quantis|normalis|optimis|initialis|serialis|minimis|maximis|parametris|factoris|materialis|summaris)"
    r"(e|ed|er|es|ing|ation|ations)\b|\b(behaviour|colour|neighbour|centre|licence|grey)\w*",
    re.IGNORECASE,
)
# Names keep the spelling that their owners gave them.
TITLES = ("Optimal Formats for Weight Quantisation",)
MACHINE_PATH = re.compile(r"(?<![\w.])/(tmp|work|root|home|Users)/\w")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _matches(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    return [
        f"{_name(path)}:{number}: {line.strip()}"
        for path in paths
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]


def test_files_are_small() -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in PYTHON}
    assert {_name(path): size for path, size in sizes.items() if size > MAX_LINES} == {}
    assert statistics.median(sizes.values()) <= MAX_MEDIAN_LINES


def test_spelling_is_american() -> None:
    found = _matches(BRITISH, TEXTS)
    assert [line for line in found if not any(title in line for title in TITLES)] == []


def test_no_paths_of_one_machine() -> None:
    assert _matches(MACHINE_PATH, TEXTS) == []


def test_nothing_is_left_for_later() -> None:
    assert _matches(UNFINISHED, PYTHON) == []


def test_files_are_named_for_their_subject() -> None:
    assert [_name(path) for path in PYTHON if re.search(r"util|helper|misc|common", path.stem)] == []


def test_modules_say_what_they_are_for() -> None:
    assert [_name(path) for path in PYTHON if not path.read_text().startswith(('"""', "#!"))] == []


def test_core_dependencies_are_few() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(project["dependencies"]) <= MAX_DEPENDENCIES


def test_constraints_pin_every_direct_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [item for name, items in project["optional-dependencies"].items() if name != "peers" for item in items]
    wanted = {_canonical(item) for item in [*project["dependencies"], *extras]}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert wanted - {_canonical(line) for line in lines} == set()


def _canonical(requirement: str) -> str:
    return re.split(r"[\[=<>~! ]", requirement)[0].lower().replace("_", "-")


@cache
def _modules_after(statement: str) -> frozenset[str]:
    """Top-level modules loaded by a statement in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src")
    return frozenset(run.stdout.split())


@pytest.mark.parametrize("heavy", ["torch", "transformers", "matplotlib", "scipy", "triton", "accelerate", "gguf"])
def test_import_is_light(heavy: str) -> None:
    assert heavy not in _modules_after("import octavo")


@pytest.mark.parametrize("heavy", ["torch", "transformers", "scipy", "numpy", "matplotlib"])
def test_command_line_is_light(heavy: str) -> None:
    help_text = "import contextlib, io, octavo.cli\nsys.argv = ['octavo', '--help']\n"
    help_text += "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): octavo.cli.main()"
    assert heavy not in _modules_after(help_text)


def test_shapes_are_checked() -> None:
    from octavo.formats.importance import Importance

    assert Importance(torch.ones(3), torch.ones(4)).matrix().shape == (3, 4)
    with pytest.raises(jaxtyping.TypeCheckError):
        Importance(torch.ones(3, 4), torch.ones(4))


def _shown_commands() -> list[tuple[str, str]]:
    """Every `octavo ...` line of the console blocks of README and docs, with its page."""
    found = []
    fenced = re.compile(r"^```(?:console|bash|shell|sh)\n(.*?)^```", re.DOTALL | re.MULTILINE)
    for page in PAGES:
        for block in fenced.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                words = line.removeprefix("$ ")
                if words.startswith("octavo "):
                    found.append((_name(page), words))
    return found


@cache
def _help(command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    environment = {"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb", "PATH": ""}
    code = "import sys, octavo.cli; sys.argv[0] = 'octavo'; octavo.cli.main()"
    arguments = [sys.executable, "-c", code, *command, "--help"]
    return subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT / "src", env=environment)


@pytest.mark.parametrize(("page", "line"), _shown_commands())
def test_shown_commands_exist(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    grouped = words[0] in ("formats", "laws", "recipes") and len(words) > 1 and not words[1].startswith("-")
    named = words[:2] if grouped else words[:1]
    command = () if named[0].startswith("-") else tuple(named)
    shown = _help(command)
    assert shown.returncode == 0, f"{page}: octavo {' '.join(command)} does not exist"
    options = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    unknown = {option for option in options if not re.search(rf"(?<!\S){re.escape(option)}\b", shown.stdout)}
    assert unknown == set(), f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_and_make_targets_exist(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    named = re.findall(r"`([\w/]+/[\w/]*\w\.(?:py|toml|txt))`", text)
    assert [path for path in named if not any((base / path).exists() for base in (ROOT, ROOT / "src" / "octavo"))] == []
    targets = re.findall(r"\bmake ([a-z]+)`", text)
    makefile = (ROOT / "Makefile").read_text()
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
