"""The C++ for another processor: the kernels compile for aarch64, and NEON, emulated, multiplies as portable loops do.

That is all that is known of NEON: no speed was ever measured.
"""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from checked_programs import PRODUCTS, SOURCES, build, run

COMPILERS = ("aarch64-linux-gnu-g++", *(f"aarch64-linux-gnu-g++-{version}" for version in range(20, 10, -1)))
FLAGS = ("-std=c++20", "-O0", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")


@pytest.fixture(scope="module")
def compiler() -> str:
    found = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("there is no C++ compiler for aarch64")
    return found


def test_kernels_compile(compiler: str) -> None:
    # Bindings need the headers of Python for aarch64; the rest of the sources are built below.
    sources = [
        path for path in SOURCES.glob("*.cpp") if not path.stem.startswith("binding") and path.stem not in PRODUCTS
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda source: run(compiler, *FLAGS, "-fsyntax-only", source), sources))


def test_products(compiler: str, tmp_path: Path) -> None:
    # A static program needs no libraries for aarch64 where it runs.
    program = build(compiler, (*FLAGS, "-static", "-pthread"), tmp_path, "checked_products", PRODUCTS)
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None:
        pytest.skip("products compile, and there is no qemu-aarch64 to run them")
    assert run(emulator, program) == "ok\n"
