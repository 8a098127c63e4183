"""Peak memory of compressing a checkpoint of any size.

Writes a synthetic sharded Llama checkpoint, streaming; compresses it in a process of its own; reads that process's peak
of resident memory (VmHWM). The bound is

    peak <= the largest tensor's working set + 300 MB

where the working set is measured too: what compressing a checkpoint with one tensor of each shape takes above the
imports (of each shape, because the largest tensor, the embedding, may not be the one that takes most work). The 300 MB
hold the interpreter, torch and all that grows with the number of tensors. Everything written is deleted at the end.

    python benchmarks/memory.py                      # 4 GB
    python benchmarks/memory.py --gigabytes 0.2 --bits 2.5 --json
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from octavo.base.units import format_size
from octavo.checkpoints.checkpoint import Entry
from octavo.checkpoints.raw import bytes_of
from octavo.checkpoints.safetensors import header_bytes

ALLOWANCE = 300_000_000
_CHUNK = 1 << 22
_SHARD = 1_000_000_000

# The child starts anew, so that its peak is not its parent's; an empty source measures the imports alone.
_CHILD = """
import sys, time
import octavo.compress
source, out, bits, sensitivity = sys.argv[1:]
start = time.perf_counter()
if source:
    octavo.compress.compress(source, out, bits=float(bits), calibration=None, sensitivity=sensitivity)
seconds = time.perf_counter() - start
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("PEAK", int(peak.split()[1]) * 1024, seconds)
"""


def llama_config(size: int) -> dict[str, object]:
    """A Llama config whose bfloat16 weights take about `size` bytes; its largest tensor is the embedding."""
    hidden, intermediate, vocabulary = (2048, 8192, 32000) if size >= 1_000_000_000 else (512, 2048, 8000)
    layer = 4 * hidden * hidden + 3 * hidden * intermediate + 2 * hidden
    layers = max(1, round((size / 2 - vocabulary * hidden) / layer))
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "dtype": "bfloat16",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64,
        "head_dim": 64,
        "tie_word_embeddings": True,
    }


def llama_shapes(config: dict[str, object]) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor by name."""
    hidden, intermediate, vocabulary, layers = (
        int(str(config[key])) for key in ("hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers")
    )
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for i in range(layers):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.self_attn.{part}_proj.weight": (hidden, hidden) for part in "qkvo"}
        shapes |= {f"{layer}.mlp.{part}_proj.weight": (intermediate, hidden) for part in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = (hidden, intermediate)
        shapes |= {f"{layer}.{part}_layernorm.weight": (hidden,) for part in ("input", "post_attention")}
    return shapes | {"model.norm.weight": (hidden,)}


def write_checkpoint(folder: Path, config: dict[str, object], shapes: dict[str, tuple[int, ...]], seed: int) -> int:
    """Write normal weights in shards of 1 GB, a few megabytes at a time; return the bytes of all tensors."""
    generator = torch.Generator().manual_seed(seed)
    shards: list[dict[str, Entry]] = [{}]
    for name, shape in shapes.items():
        if shards[-1] and sum(entry.nbytes for entry in shards[-1].values()) > _SHARD:
            shards.append({})
        shards[-1][name] = Entry(torch.bfloat16, shape, 2 * math.prod(shape))
    folder.mkdir()
    owner = {}
    for i, shard in enumerate(shards):
        file_name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        header, order = header_bytes(shard, {"format": "pt"})
        with (folder / file_name).open("wb") as file:
            file.write(header)
            for name in order:
                owner[name] = file_name
                for chunk in _normal(shard[name].nbytes // 2, generator):
                    file.write(bytes_of(chunk))
    total = sum(entry.nbytes for shard in shards for entry in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": owner}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))
    return total


def peak_of(source: Path | None, out: Path, bits: float, sensitivity: str) -> tuple[int, float]:
    """Peak bytes and seconds of compressing `source` in a new process; of the imports alone if there is no source."""
    arguments = [str(source or ""), str(out), str(bits), sensitivity]
    done = subprocess.run([sys.executable, "-c", _CHILD, *arguments], capture_output=True, text=True, check=False)
    report = [line for line in done.stdout.splitlines() if line.startswith("PEAK")]
    if done.returncode or not report:
        raise SystemExit(f"compressing failed:\n{done.stderr}")
    _, peak, seconds = report[-1].split()
    return int(peak), float(seconds)


def measure(size: int, bits: float, sensitivity: str, folder: Path) -> dict[str, float]:
    """All figures, in bytes and seconds; see the module's text for what they mean."""
    config = llama_config(size)
    shapes = llama_shapes(config)
    one_each = {name: shape for shape, name in {shape: name for name, shape in shapes.items()}.items()}
    start = time.perf_counter()
    total = write_checkpoint(folder / "whole", config, shapes, seed=0)
    write_checkpoint(folder / "one-each", config, one_each, seed=0)
    written = time.perf_counter() - start
    imports, _ = peak_of(None, folder / "none", bits, sensitivity)
    alone, _ = peak_of(folder / "one-each", folder / "one-each-out", bits, sensitivity)
    peak, seconds = peak_of(folder / "whole", folder / "whole-out", bits, sensitivity)
    stored = sum(path.stat().st_size for path in (folder / "whole-out").glob("*.safetensors"))
    return {
        "checkpoint": total,
        "tensors": len(shapes),
        "largest tensor": 2 * max(map(math.prod, one_each.values())),
        "output": stored,
        "imports": imports,
        "working set": alone - imports,
        "peak": peak,
        "bound": alone - imports + ALLOWANCE,
        "seconds to write": written,
        "seconds to compress": seconds,
    }


def _normal(count: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    for start in range(0, count, _CHUNK):
        yield (0.02 * torch.randn(min(_CHUNK, count - start), generator=generator)).to(torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of octavo compress.")
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--bits", type=float, default=3.0)
    parser.add_argument("--sensitivity", default="uniform")
    parser.add_argument("--folder", type=Path, help="where to write; needs about 1.5 times the size")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="octavo-memory-", dir=arguments.folder) as folder:
        size = int(arguments.gigabytes * 1_000_000_000)
        figures = measure(size, arguments.bits, arguments.sensitivity, Path(folder))
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, figure in figures.items():
            text = (
                f"{figure:.1f}" if "seconds" in name else str(figure) if name == "tensors" else format_size(int(figure))
            )
            print(f"{name:>20}  {text}")
    held = figures["peak"] <= figures["bound"]
    print("the bound holds" if held else "the bound is broken", file=sys.stderr, flush=True)
    raise SystemExit(not held)


if __name__ == "__main__":
    main()
