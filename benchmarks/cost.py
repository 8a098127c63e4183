"""What a compression costs, by the size of the model: seconds and memory of `octavo compress` as a user calls it.

Subjects: the embedded SmolLM2-135M-Instruct in bfloat16, and the same model cut off after a third and two thirds of its
layers (which costs what a smaller model of this shape costs; what it would say does not matter here). All of it is
timed: starting, calibrating on a text, measuring inputs, planning, rounding with feedback, writing.

    python benchmarks/cost.py                       about a quarter of an hour on two cores
    python benchmarks/cost.py --layers 10 --effort fast
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from octavo.checkpoints import open_checkpoint

SOURCE = "smollm2-135m"
LINEAR = re.compile(r"_proj\.weight$")
RESULTS = Path(__file__).parent / "results" / "cost.json"


def write_cut(layers: int, out: Path) -> int:
    """The embedded model with its first layers only, in bfloat16; returns how many weights its linear layers have."""
    checkpoint = open_checkpoint(SOURCE)
    out.mkdir()
    kept = {}
    for name in checkpoint.names:
        found = re.search(r"\.layers\.(\d+)\.", name)
        if found is None or int(found[1]) < layers:
            kept[name] = checkpoint.read(name).to(torch.bfloat16).contiguous()
    save_file(kept, out / "model.safetensors", metadata={"format": "pt"})
    config = {**checkpoint.config, "num_hidden_layers": layers, "dtype": "bfloat16"}
    (out / "config.json").write_text(json.dumps(config))
    for path in checkpoint.sidecars:
        shutil.copy(path, out)
    return sum(prod(tensor.shape) for name, tensor in kept.items() if LINEAR.search(name))


def compressed(source: Path, bits: float, effort: str) -> dict[str, float]:
    """Seconds, and the largest memory in megabytes, of one run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "octavo.cli", "compress", str(source), f"{folder}/out"]
        start = time.perf_counter()
        running = subprocess.Popen([*command, "--bits", str(bits), "--effort", effort], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(running.pid, 0)
        if status:
            raise SystemExit(f"octavo compress ended with status {os.waitstatus_to_exitcode(status)}")
        return {"seconds": time.perf_counter() - start, "megabytes": usage.ru_maxrss / 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[10, 20, 30])
    parser.add_argument("--bits", type=float, default=3.0)
    parser.add_argument("--effort", choices=("fast", "balanced", "best"), default="balanced")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for layers in options.layers:
        with tempfile.TemporaryDirectory() as folder:
            weights = write_cut(layers, Path(folder) / "model")
            found = compressed(Path(folder) / "model", options.bits, options.effort)
        results[f"{options.effort}, {layers} layers"] = {"weights": weights, **found}
        RESULTS.write_text(json.dumps(results, indent=1))
    table = Table("run", "weights in linear layers", "seconds", "µs/weight", "memory, MB")
    for name, r in results.items():
        each = 1e6 * r["seconds"] / r["weights"]
        table.add_row(name, f"{r['weights']:,.0f}", f"{r['seconds']:.0f}", f"{each:.2f}", f"{r['megabytes']:.0f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
