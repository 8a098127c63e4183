"""The programs of tests/kernels that check C++ in C++, built by some compiler."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "octavo" / "kernels" / "cpu"
STREAMS = "ans_grouped", "ans_rows", "column_codes"
# What a product needs, and the loops that it is chosen from.
PRODUCTS = (
    "avx2",
    "avx512",
    "bytes",
    "bytes_avx512",
    "codes_part",
    "decoding",
    "decoding_avx2",
    "decoding_avx512",
    "lanes_avx2",
    "lanes_avx512",
    "lanes_neon",
    "lattice_part",
    "lattice_points",
    "layout",
    "other_parts",
    "portable",
    "product",
    "shift_avx2",
    "shift_avx512",
    "shift_bytes",
    "shift_bytes_avx512",
    "shift_part",
    "team",
    "tiles_avx512",
)


def build(compiler: str, flags: Sequence[str], folder: Path, name: str, needs: Sequence[str]) -> Path:
    """The program of tests/kernels/NAME.cpp, in a folder."""
    program = folder / name

    def built(source: Path) -> Path:
        made = folder / f"{source.stem}.o"
        run(compiler, *flags, f"-I{SOURCES}", "-c", source, "-o", made)
        return made

    sources = [ROOT / "tests" / "kernels" / f"{name}.cpp", *(SOURCES / f"{need}.cpp" for need in needs)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(built, sources))
    run(compiler, *flags, *objects, "-ldl", "-o", program)
    return program


def run(*command: str | Path) -> str:
    """What a command prints, which must succeed."""
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout
