"""`octavo serve` and `octavo chat` on a tiny model."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from typer.testing import CliRunner

from octavo.cli import app
from octavo.hub.generate import generate


def run(*arguments: object, lines: str = "") -> tuple[int, str, str]:
    shown = CliRunner().invoke(app, list(map(str, arguments)), input=lines)
    return shown.exit_code, shown.stdout, shown.stderr


def test_serve_answers_as_generate_does_and_ends_with_a_signal(tiny_llama: Path) -> None:
    command = [sys.executable, "-m", "octavo.cli", "serve", str(tiny_llama), "--port", "0", "--name", "tiny"]
    environment = {**os.environ, "OCTAVO_API_KEY": "open"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            assert line.startswith("octavo: tiny listens on http://127.0.0.1:")
            assert "8 slots of 256 tokens, 64 may wait" in line
            url = line.split()[4]
            with openai.OpenAI(base_url=url, api_key="open", max_retries=0, timeout=60) as client:
                for prompt in ("The binder", "def fold"):
                    answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=12, temperature=0)
                    assert answer.choices[0].text == "".join(generate(tiny_llama, prompt, 12))
                chat = client.chat.completions.create(
                    model="tiny", messages=[{"role": "user", "content": "fold"}], max_tokens=6, temperature=0
                )
                assert chat.choices[0].message.content == "".join(generate(tiny_llama, "fold", 6, chat=True))
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.stderr.read() == "octavo: stopped\n"
    assert process.returncode == 0


def test_a_taken_port_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = run("serve", tmp_path / "none", "--port", taken.getsockname()[1])
    assert (code, err) == (2, "octavo: error: address already in use; choose another --port\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--api-key", ""), "the API key is empty"),
        (("--max-body", "much"), "much"),
        (("--host", "192.0.2.1"), "choose an address of this machine"),
    ],
)
def test_senseless_options_are_one_line_and_code_2(tmp_path: Path, options: tuple[str, str], words: str) -> None:
    code, _, err = run("serve", tmp_path, "--port", 0, *options)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert words in err


@pytest.mark.parametrize("command", ["serve", "chat"])
def test_missing_model_is_one_line_and_code_2(command: str, tmp_path: Path) -> None:
    rest = ("--port", 0) if command == "serve" else ()
    code, _, err = run(command, tmp_path / "none", *rest)
    assert code == 2
    assert err.splitlines()[-1].startswith("octavo: error: ")


def test_chat_without_a_terminal_prints_answers_only(tiny_llama: Path) -> None:
    lines = "fold\n\n/reset\nfold\n/what\n/exit\nnever read\n"
    code, out, err = run("chat", tiny_llama, "--tokens", 6, lines=lines)
    assert code == 0
    answer = "".join(generate(tiny_llama, "fold", 6, chat=True))
    assert out == f"{answer}\n{answer}\n"
    assert err.startswith("/what is no command; ")


def test_chat_ends_where_the_context_does(tiny_llama: Path) -> None:
    code, _, err = run("chat", tiny_llama, "--context", 40, lines="fold " * 60 + "\n")
    assert code == 2
    assert "the context is 40" in err
