"""How a product is cut into programs of a GPU: what was measured on that device, else a rule.

Measurements lie in `tuned/<device>.json`, written by `python benchmarks/cuda_products.py --tune`. Nothing is measured
while a model runs, so that a launch depends on shapes alone and a CUDA graph can hold it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch

FOLDER = Path(__file__).with_name("tuned")

PROGRAMS = 256
"""Programs that a launch has at least where its matrix allows: about two for each of an H100's 132 multiprocessors."""

MOST_SPLITS = 32


@dataclass(frozen=True)
class Problem:
    """What a measurement holds for.

    Attributes:
        kernel: its name.
        levels: of the codes, or states of a trellis; 0 where neither is.
        batch: inputs, rounded up to a power of two.
        rows, columns: of the matrix.
    """

    kernel: str
    levels: int
    batch: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Cut:
    """How a product is cut.

    Attributes:
        rows: of a program.
        width: of a tile: groups of codes, or columns.
        warps: of a program.
        stages: tiles under way at once.
        splits: runs of columns whose sums are added afterwards; 0 for as many as fill the device.
    """

    rows: int
    width: int
    warps: int
    stages: int
    splits: int = 0

    def splits_of(self, rows: int, tiles: int) -> int:
        """Runs of columns of a matrix whose rows take so many tiles."""
        if self.splits:
            return min(self.splits, tiles)
        programs = -(-rows // self.rows)
        splits = 1
        while programs * splits < PROGRAMS and splits < MOST_SPLITS and 2 * splits <= tiles:
            splits *= 2
        return splits


def power_of_two(count: int) -> int:
    """The least power of two that is no less."""
    return 1 << max(count - 1, 0).bit_length()


def measured(problem: Problem, device: torch.device) -> Cut | None:
    """The fastest cut that was measured on this kind of device; None where none was."""
    if device.type != "cuda":
        return None
    return measurements(torch.cuda.get_device_name(device)).get(problem)


def path_of(device_name: str, folder: Path = FOLDER) -> Path:
    """The file of a device's measurements."""
    return folder / f"{'-'.join(device_name.split())}.json"


def load(path: Path) -> dict[Problem, Cut]:
    """The measurements of a file; none if there is no such file."""
    if not path.exists():
        return {}
    return {Problem(**entry["problem"]): Cut(**entry["cut"]) for entry in json.loads(path.read_text())}


@cache
def measurements(device_name: str) -> dict[Problem, Cut]:
    """All of a kind of device, read once; what is changed in it holds from the next launch on."""
    return load(path_of(device_name))


def save(found: dict[Problem, Cut], path: Path) -> None:
    """Write measurements as `load` reads them."""
    entries = [{"problem": asdict(problem), "cut": asdict(cut)} for problem, cut in found.items()]
    path.parent.mkdir(exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(entries, indent=1) + "\n")
    new.replace(path)
