"""The C++ of products under the address and undefined-behavior sanitizers: no stray read, write, shift or overflow."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "src" / "octavo" / "kernels" / "cpu"
# What a product needs, and the loops that it is chosen from.
NAMES = (
    "bytes",
    "bytes_avx512",
    "codes_part",
    "lanes_avx2",
    "lanes_avx512",
    "lanes_neon",
    "layout",
    "other_parts",
    "product",
    "shift_bytes",
    "shift_bytes_avx512",
    "shift_avx512",
    "shift_part",
    "team",
    "tiles_amx",
)
LOOPS = ("avx2", "avx512", "portable", "shift_avx2")
# Unoptimized, it takes a third of the time to compile.
FLAGS = ("-std=c++20", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-pthread")


@pytest.fixture(scope="module")
def compiler() -> str:
    found = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if found is None:
        pytest.skip("there is no C++ compiler")
    return found


def test_products(compiler: str, tmp_path: Path) -> None:
    empty, program = tmp_path / "empty.cpp", tmp_path / "products"
    empty.write_text("int main() {}\n")
    if subprocess.run([compiler, *FLAGS, empty, "-o", program], capture_output=True).returncode:
        pytest.skip(f"{compiler} has no sanitizers")

    def built(source: Path) -> Path:
        made = tmp_path / f"{source.stem}.o"
        command = [compiler, *FLAGS, f"-I{SOURCES}", "-c", source, "-o", made]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return made

    sources = [HERE / "sanitized_products.cpp", *(SOURCES / f"{name}.cpp" for name in (*NAMES, *LOOPS))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(built, sources))
    linked = subprocess.run([compiler, *FLAGS, *objects, "-ldl", "-o", program], capture_output=True, text=True)
    assert linked.returncode == 0, linked.stderr
    run = subprocess.run([program], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout == "ok\n"
