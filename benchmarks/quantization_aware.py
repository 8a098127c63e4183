"""A training step with quantized weights against one without, and the same with torch.compile.

    python benchmarks/quantization_aware.py                          # two sizes on the CPU, a few minutes
    python benchmarks/quantization_aware.py --device cuda --gpu      # larger ones, bfloat16

A step is all of it: forward, backward, clipping and fused AdamW, of the same network on the same tokens. Steps with and
without alternate in one process; the figure is the median of the ratios of neighbors, of seconds on a GPU and of the
process's CPU seconds on a CPU, which other programs disturb less. All matrices of the blocks are quantized, the
embedding, which is the head too, is not. Rounding costs the same for any number of tokens, so the tokens of a step,
which are named, decide the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.functional import cross_entropy

from octavo.layers.fake_quantized import FakeQuantizedLinear
from octavo.models.decoder_config import DecoderConfig
from octavo.models.transformer import Transformer
from octavo.training.precision import StartQuantizing

RESULTS = Path(__file__).parent / "results" / "quantization_aware.json"
VOCABULARY = 4096
FORMATS = (
    "lloyd@1 b64 absmean:bf16",
    "lloyd@2 b64 absmean:bf16",
    "lloyd@4 b64 absmax:bf16",
    "int@4 b64 absmax:bf16",
    "mxfp4",
    "nvfp4",
)


@dataclass(frozen=True)
class Size:
    """A network and the tokens of a step."""

    hidden: int
    layers: int
    batch: int
    length: int

    def network(self, device: str) -> Transformer:
        config = DecoderConfig.plain(VOCABULARY, self.hidden, self.layers, self.hidden // 64, context=self.length)
        return Transformer(config, torch.Generator().manual_seed(0), linear=FakeQuantizedLinear).to(device)


CPU = (Size(256, 4, 8, 256), Size(512, 4, 8, 256))
GPU = (Size(768, 12, 16, 1024), Size(1536, 16, 8, 1024))


@dataclass(frozen=True, eq=False)
class Trained:
    """A network with its optimizer, and how it is called."""

    network: Transformer
    called: Any
    optimizer: torch.optim.Optimizer
    device: str

    def step(self, tokens: torch.Tensor) -> float:
        """Seconds of one step."""
        began = clock(self.device)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            logits = self.called(tokens[:, :-1])
        cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return clock(self.device) - began


def clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def trained(size: Size, device: str, format: str | None, compile: bool) -> Trained:
    network = size.network(device)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, fused=True)
    if format is not None:
        StartQuantizing(network, {"*": format}, 0)(0, network, optimizer)
    return Trained(network, torch.compile(network) if compile else network, optimizer, device)


def ratio(size: Size, device: str, format: str, compile: bool, turns: int) -> dict[str, Any]:
    """Of steps with a format to steps without."""
    tokens = torch.randint(VOCABULARY, (size.batch, size.length + 1), generator=torch.Generator().manual_seed(1))
    tokens = tokens.to(device)
    plain, quantized = trained(size, device, None, compile), trained(size, device, format, compile)
    for each in (plain, quantized):
        each.step(tokens), each.step(tokens)
    pairs = []
    for turn in range(turns):
        # Whoever comes second finds the caches as the other left them.
        order = (plain, quantized) if turn % 2 else (quantized, plain)
        seconds = {id(each): each.step(tokens) for each in order}
        pairs.append((seconds[id(quantized)], seconds[id(plain)]))
    ratios = sorted(one / other for one, other in pairs)
    return {
        "format": format,
        "hidden": size.hidden,
        "layers": size.layers,
        "parameters": sum(each.numel() for each in plain.network.parameters()),
        "tokens": size.batch * size.length,
        "compiled": compile,
        "seconds": statistics.median(other for _, other in pairs),
        "ratio": statistics.median(ratios),
        "middle half": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--gpu", action="store_true", help="the larger sizes")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="torch.compile both")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    table = Table(
        "width", "layers", "parameters", "tokens a step", "format", "step without (s)", "ratio", "middle half"
    )
    for size in GPU if options.gpu else CPU:
        for format in FORMATS:
            row = ratio(size, options.device, format, options.compile, options.turns)
            rows.append(row)
            low, high = row["middle half"]
            cells = row["hidden"], row["layers"], row["parameters"], row["tokens"], format
            table.add_row(*map(str, cells), f"{row['seconds']:.3f}", f"{row['ratio']:.3f}", f"{low:.3f} … {high:.3f}")
    Console().print(table)
    machine = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    described = {"device": machine, "threads": torch.get_num_threads(), "cores": os.cpu_count(), "rows": rows}
    options.out.write_text(json.dumps(described, indent=1) + "\n")


if __name__ == "__main__":
    main()
