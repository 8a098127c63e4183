"""The C++ of products and streams under the address and undefined-behavior sanitizers: nothing strays or overflows."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from checked_programs import PRODUCTS, STREAMS, build, run

# Unoptimized, it takes a third of the time to compile.
FLAGS = ("-std=c++20", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-pthread")


@pytest.fixture(scope="module")
def compiler() -> str:
    found = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if found is None:
        pytest.skip("there is no C++ compiler")
    return found


@pytest.mark.parametrize(("name", "needs"), [("checked_products", PRODUCTS), ("checked_streams", STREAMS)])
def test_programs_do_not_stray(compiler: str, tmp_path: Path, name: str, needs: tuple[str, ...]) -> None:
    empty = tmp_path / "empty.cpp"
    empty.write_text("int main() {}\n")
    if subprocess.run([compiler, *FLAGS, empty, "-o", tmp_path / "empty"], capture_output=True).returncode:
        pytest.skip(f"{compiler} has no sanitizers")
    assert run(build(compiler, FLAGS, tmp_path, name, needs)) == "ok\n"
