"""The program around the commands: start-up, help, options and how it ends when something is wrong."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from octavo.base.errors import FormatError
from octavo.cli import app
from octavo.cli.errors import ErrorGroup

COMMANDS = (
    "chat",
    "compress",
    "demo",
    "evaluate",
    "export",
    "formats",
    "generate",
    "inspect",
    "laws",
    "recipes",
    "serve",
)
SLOW_TO_IMPORT = ("torch", "transformers", "matplotlib", "scipy", "numpy", "safetensors")


def run(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "octavo.cli", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **(environment or {})},
        timeout=120,
    )


def one_line(stderr: str) -> str:
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    return lines[0]


def failing(error: BaseException) -> typer.Typer:
    """A program of one command that raises `error`."""
    program = typer.Typer(cls=ErrorGroup, pretty_exceptions_enable=False)

    @program.callback()
    def options(debug: bool = typer.Option(False, "--debug", envvar="OCTAVO_DEBUG")) -> None:
        pass

    @program.command()
    def work(words: list[str] = typer.Argument(default=None)) -> None:
        raise error

    return program


def test_help_imports_nothing_slow() -> None:
    program = (
        "import sys, octavo.cli\n"
        "try: octavo.cli.app(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"sys.exit(' '.join(name for name in {SLOW_TO_IMPORT} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_help_names_every_command() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    for command in COMMANDS:
        assert command in shown.output


@pytest.mark.parametrize("command", [*COMMANDS, "formats show", "laws plan", "laws fit", "recipes list", "recipes run"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"])
    assert shown.exit_code == 0
    assert f"Example: octavo {command}" in shown.output


def test_module_runs_as_a_program() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("octavo")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compres", "a", "b"], "compress"),
        (["compress", "a", "b", "--bitz", "3"], "--bits"),
        (["compress", "a", "b", "--bits", "three"], "valid number"),
        (["compress", "a", "b", "--bits", "3", "--budget-of", "disk"], "memory"),
        (["evaluate", "a"], "--reference"),
    ],
)
def test_typing_errors_get_the_parser_s_own_message(arguments: list[str], words: str) -> None:
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 2
    assert words in shown.output
    assert "Traceback" not in shown.output


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FormatError("no such\nformat", "see `octavo formats`"), "no such format; see `octavo formats`"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/out/x"),
            "no space left on device: /out/x; free some space",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "plan.json"), "plan.json; check the path"),
        (PermissionError(errno.EACCES, "Permission denied", "/out"), "permission denied: /out; check the permissions"),
        (MemoryError(), "out of memory; "),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_code_2(error: Exception, line: str) -> None:
    shown = CliRunner().invoke(failing(error), ["work"])
    assert shown.exit_code == 2
    assert one_line(shown.stderr).startswith("octavo: error: ")
    assert line in shown.stderr
    assert shown.stdout == ""


def test_interrupt_says_that_the_command_resumes() -> None:
    shown = CliRunner().invoke(failing(KeyboardInterrupt()), ["work"])
    assert shown.exit_code == 130
    assert "the same command goes on where it stopped" in one_line(shown.stderr)


def test_a_bug_keeps_its_traceback() -> None:
    shown = CliRunner().invoke(failing(ZeroDivisionError("a bug")), ["work"])
    assert isinstance(shown.exception, ZeroDivisionError)


@pytest.mark.parametrize("arguments", [["--debug", "work"], ["work", "--debug"], ["work", "a", "--debug", "b"]])
def test_debug_shows_the_traceback_wherever_it_stands(arguments: list[str]) -> None:
    shown = CliRunner().invoke(failing(FormatError("broken", "mend it")), arguments)
    assert shown.exit_code == 2
    assert "Traceback" in shown.stderr
    assert shown.stderr.endswith("octavo: error: broken; mend it\n")


def test_debug_after_two_dashes_is_an_argument() -> None:
    shown = CliRunner().invoke(failing(FormatError("broken", "mend it")), ["work", "--", "--debug"])
    assert "Traceback" not in shown.stderr


def test_debug_by_environment() -> None:
    shown = CliRunner().invoke(failing(FormatError("broken")), ["work"], env={"OCTAVO_DEBUG": "1"})
    assert "Traceback" in shown.stderr


def test_a_closed_pipe_is_no_error_of_ours() -> None:
    shown = CliRunner().invoke(failing(BrokenPipeError(errno.EPIPE, "Broken pipe")), ["work"])
    assert "octavo: error" not in shown.stderr
