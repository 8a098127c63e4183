"""The trainer against a bare PyTorch loop of the same model, and its memory against the account.

    python benchmarks/training.py                        # two sizes on the CPU
    python benchmarks/training.py --device cuda --gpu    # larger ones, bfloat16

Both train the same network on the same batches with the same fused AdamW and clipping; the loop does nothing else.
Turns of both alternate in one process, and the figure is the median of the turns' ratios, of seconds on a GPU and of
the process's CPU seconds on a CPU, which other programs disturb less.

Memory is measured in processes of their own: on a GPU the allocator's peak, on the CPU how far the resident memory
rises above what it was before the model was made; there once as users have it, and once with glibc told to give back
every freed block above 64 KiB, for by default it keeps holes between blocks, which no account of tensors can know.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from octavo.base.memory import give_back_memory, resident_memory
from octavo.models.decoder_config import DecoderConfig
from octavo.models.transformer import Transformer
from octavo.training import TokenWindows, TrainingConfig, next_token_loss, train
from octavo.training.accounting import account

RESULTS = Path(__file__).parent / "results" / "training.json"
VOCABULARY = 4096
Turn = Callable[["Size", str, str], float]
"""From a size, a device and a dtype to seconds."""


@dataclasses.dataclass(frozen=True)
class Size:
    """One line of the table."""

    hidden: int
    layers: int
    length: int
    batch: int
    steps: int

    @property
    def name(self) -> str:
        return f"width {self.hidden}, {self.layers} layers, {self.batch} x {self.length} tokens"


CPU = (Size(64, 2, 64, 8, 30), Size(256, 4, 128, 8, 5))
GPU = (Size(256, 4, 512, 16, 100), Size(768, 12, 1024, 16, 40))


def clock(device: str) -> float:
    """Seconds."""
    return time.process_time() if device == "cpu" else time.perf_counter()


def made(size: Size) -> tuple[Transformer, DecoderConfig]:
    config = DecoderConfig.plain(VOCABULARY, size.hidden, size.layers, size.hidden // 64 or 1, context=size.length)
    return Transformer(config, torch.Generator().manual_seed(0)), config


def settings(size: Size, device: str, dtype: str) -> TrainingConfig:
    changes = {"steps": size.steps, "schedule.name": "constant", "schedule.warmup": 0, "data.batch": size.batch}
    return TrainingConfig().changed(
        changes | {"data.length": size.length, "precision.device": device, "precision.dtype": dtype}
    )


def source(size: Size) -> TokenWindows:
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, size.length * 1000, dtype=np.uint16)
    return TokenWindows(tokens, size.length, size.batch, 0)


def bare(size: Size, device: str, dtype: str) -> float:
    """Seconds of a loop that does nothing but train."""
    model = made(size)[0].to(device)
    weights = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    norms = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups: Any = [{"params": weights, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, 1e-3, (0.9, 0.95), fused=True)
    batches = source(size)
    began = clock(device)
    for step in range(size.steps):
        tokens = batches.batch(step)["tokens"].to(device)
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(tokens[:, :-1])
            loss = cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if device == "cuda":
        torch.cuda.synchronize()
    return clock(device) - began


def ours(size: Size, device: str, dtype: str) -> float:
    """Seconds of the trainer."""
    model = made(size)[0].to(device)
    config, batches = settings(size, device, dtype), source(size)
    began = clock(device)
    train(model, next_token_loss, batches, config)
    if device == "cuda":
        torch.cuda.synchronize()
    return clock(device) - began


def measured_memory(turn: Turn, size: Size, device: str, dtype: str) -> int:
    """Bytes at the peak of three steps; to be called in a process of its own."""
    size = dataclasses.replace(size, steps=3)
    if device == "cuda":
        turn(size, device, dtype)
        return torch.cuda.max_memory_allocated()
    # What torch loads and allocates once, at sizes that do not matter.
    turn(Size(64, 1, 8, 1, 1), device, dtype)
    give_back_memory()
    before = resident_memory()
    turn(size, device, dtype)
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 - before


def measured_apart(turn: str, place: int, chosen: argparse.Namespace, returning: bool) -> int:
    """The same in a process that knows no earlier peak."""
    environment = {**os.environ, **({"MALLOC_MMAP_THRESHOLD_": str(1 << 16)} if returning else {})}
    command = [sys.executable, __file__, "--device", chosen.device, "--threads", str(chosen.threads)]
    command += ["--gpu"] * chosen.gpu + ["--memory", turn, str(place)]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--gpu", action="store_true", help="larger models in bfloat16")
    parser.add_argument("--memory", nargs=2, metavar=("TURN", "SIZE"), help="only print the peak of one turn")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    dtype = "bfloat16" if chosen.gpu else "float32"
    all_sizes = GPU if chosen.gpu else CPU
    if chosen.memory:
        turn, place = chosen.memory
        print(measured_memory({"ours": ours, "bare": bare}[turn], all_sizes[int(place)], chosen.device, dtype))
        return
    rows = []
    for place, size in enumerate(all_sizes):
        for turn in (ours, bare):
            turn(dataclasses.replace(size, steps=2), chosen.device, dtype)
        times = [(ours(size, chosen.device, dtype), bare(size, chosen.device, dtype)) for _ in range(chosen.turns)]
        mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(one / two for one, two in times)
        tokens = size.steps * size.batch * size.length
        sizes = account(made(size)[1], settings(size, chosen.device, dtype))
        memory = measured_apart("ours", place, chosen, returning=True)
        rows.append(
            {
                "model": size.name,
                "tokens_per_second": tokens / mine,
                "bare_tokens_per_second": tokens / theirs,
                "time_ratio": ratio,
                "time_ratios": [one / two for one, two in times],
                "accounted_bytes": sizes.memory,
                "measured_bytes": memory,
                "memory_ratio": memory / sizes.memory,
                "measured_bytes_by_default": measured_apart("ours", place, chosen, returning=False),
                "bare_bytes_by_default": measured_apart("bare", place, chosen, returning=False),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    name = torch.cuda.get_device_name() if chosen.device == "cuda" else f"CPU, {chosen.threads} threads"
    RESULTS.write_text(json.dumps({"device": name, "torch": torch.__version__, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
