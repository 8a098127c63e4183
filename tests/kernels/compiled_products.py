"""Run by test_triton.py as a program of its own: every product kernel compiled for an H100, down to its instructions.

No GPU takes part: Triton brings the assembler along, and a driver that only names the device stands in for one.
The interpreter accepts more than the compiler does, and knows nothing of registers. Prints what takes more shared
memory than there is; with `count`, how many instructions a weight costs.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from octavo.kernels.triton import codes_product, operands, part_products, sums
from octavo.kernels.triton.codes_product import Codes
from octavo.kernels.triton.operands import Taken

H100 = GPUTarget("cuda", 90, 32)

compiled: dict[str, set[str]] = {}


class NamedDevice:
    """What Triton asks a driver for before it compiles."""

    def get_current_target(self) -> GPUTarget:
        return H100

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_capability(self, device: int) -> tuple[int, int]:
        return 9, 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def compile_only(
    kernel: Any,
    grid: tuple[int, ...],
    arguments: tuple[Tensor | int, ...],
    constants: Mapping[str, Any],
    warps: int,
    stages: int,
) -> None:
    found = kernel.warmup(*arguments, **constants, num_warps=warps, num_stages=stages, grid=grid)
    compiled.setdefault(kernel.__name__, set()).add(found.hash)
    if "count" in sys.argv:
        print_instructions(kernel.__name__, found, constants, warps)
    shared = found.metadata.shared
    if shared > 227 << 10:
        print(f"{kernel.__name__} takes {shared} bytes of shared memory")


def print_instructions(name: str, found: Any, constants: Mapping[str, Any], warps: int) -> None:
    """Instructions of a kernel's longest loop for each of the weights that it takes in one turn."""
    sides = {
        "whole_kernel": lambda c: c["ROWS"] * c["WORDS"] * 32 // c["WIDTH"],
        "few_kernel": lambda c: c["ROWS"] * c["GROUPS"] * c["DIGITS"],
        "many_kernel": lambda c: c["ROWS"] * c["GROUPS"] * c["DIGITS"] * c["CHUNKS"],
        "tile_kernel": lambda c: c["ROWS"] * c["GROUPS"] * c["PADDED"],
        "shift_kernel": lambda c: c["ROWS"] * c["PLACES"],
        "grid_kernel": lambda c: c["ROWS"] * c["PLACES"],
    }
    if name not in sides:
        return
    lines = re.findall(r"/\*([0-9a-f]{4,5})\*/\s+(?:@!?U?P\d+\s+)?([A-Z0-9_]+)(.*?);", disassembled(found.asm["cubin"]))
    jumps = [(int(at, 16), re.search(r"0x([0-9a-f]+)", rest)) for at, op, rest in lines if op == "BRA"]
    loops = [(int(to[1], 16), at) for at, to in jumps if to is not None and int(to[1], 16) < at]
    begin, end = max(loops, key=lambda loop: loop[1] - loop[0])
    inside = Counter(op for at, op, _ in lines if begin <= int(at, 16) <= end)
    each = inside.total() / (sides[name](constants) / 32 / warps)
    shape = {key: constants[key] for key in ("LEVELS", "AFFINE", "STATES", "BATCH", "ROWS") if key in constants}
    print(f"{name} {shape}: {each:.2f} a weight, {inside['LDL']} spilled; {dict(inside.most_common(8))}")


def disassembled(binary: bytes) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        return subprocess.run([tool, "-sass", file.name], capture_output=True, text=True, check=True).stdout


def codes(width: int, affine: bool, rows: int = 8192, columns: int = 8192, block: int = 64) -> Codes:
    packed = torch.empty(rows * columns * width // 8, dtype=torch.uint8)
    scales = torch.empty(rows, -(-columns // block), dtype=torch.bfloat16)
    return Codes(packed, torch.empty(1 << width), scales, rows, columns, columns, block, affine)


def compile_all() -> None:
    taken = Taken(torch.empty(8192, dtype=torch.int32), torch.empty(8192))
    few = (4, True, 1), (4, False, 1), (2, True, 1), (2, False, 1), (1, True, 1), (3, False, 2)
    for width, affine, batch in (*few, (4, True, 16), (4, False, 16), (2, True, 64)):
        codes_product.codes_product(inputs(batch), codes(width, affine), Taken(), None)
    ternary = Codes(torch.empty(1639 * 100, dtype=torch.uint8), torch.empty(3), torch.ones(1, 128), 100, 8192, 8192, 64)
    codes_product.codes_product(inputs(1), ternary, Taken(), None)
    codes_product.codes_product(inputs(16), ternary, taken, None)
    codes_product.codes_product(inputs(512), codes(4, True), Taken(), None)
    codes_product.codes_product(inputs(512, torch.float32), codes(4, False), Taken(), None)
    codes_product.codes_rows(codes(4, True), torch.arange(3))
    streams = torch.empty(8192, 2048, dtype=torch.uint8), torch.empty(4096)
    grid = torch.empty(8192, 8192, dtype=torch.int16), torch.empty(3), torch.empty(8192)
    for batch in (1, 16, 512):
        part_products.shift_product(inputs(batch), *streams, 2, 8192, torch.empty(8192, 1), 8192, taken, None)
        part_products.grid_product(inputs(batch), *grid, taken, inputs(batch, torch.float32))
    part_products.shift_rows(*streams, 2, 8192, torch.empty(8192, 1), 8192, torch.arange(3))
    part_products.grid_rows(*grid, torch.arange(3))
    single = torch.arange(8193), torch.empty(8192, dtype=torch.int32), torch.empty(8192)
    part_products.sparse_product(inputs(16), *single, None)
    part_products.sparse_rows(*single, torch.arange(3), 8192)
    part_products.zeros_product(inputs(16), taken.tensors(inputs(1))[0], 8192, None)


def inputs(batch: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(batch, 8192, dtype=dtype)


if __name__ == "__main__":
    assert not triton.knobs.runtime.interpret
    driver.set_active(NamedDevice())
    for module in (codes_product, operands, part_products, sums):
        module.launch = compile_only
    compile_all()
    print("compiled", *sorted(compiled))
