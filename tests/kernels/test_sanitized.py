"""The C++ of products under the address and undefined-behavior sanitizers: no stray read, write, shift or overflow."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from products_program import build, run

# Unoptimized, it takes a third of the time to compile.
FLAGS = ("-std=c++20", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-pthread")


@pytest.fixture(scope="module")
def compiler() -> str:
    found = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if found is None:
        pytest.skip("there is no C++ compiler")
    return found


def test_products(compiler: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.cpp"
    empty.write_text("int main() {}\n")
    if subprocess.run([compiler, *FLAGS, empty, "-o", tmp_path / "empty"], capture_output=True).returncode:
        pytest.skip(f"{compiler} has no sanitizers")
    assert run(build(compiler, FLAGS, tmp_path)) == "ok\n"
