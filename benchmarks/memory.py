"""Peak memory of compressing a checkpoint of any size, and of calibrating on it.

Writes a synthetic sharded Llama checkpoint, streaming; calibrates on it and compresses it in a process of its own;
reads that process's peak of resident memory (VmHWM) after each. Compressing promises

    peak <= the largest tensor's working set + 300 MB

where the working set is measured too: what compressing a checkpoint with one tensor of each shape takes above the
imports (of each shape, because the largest tensor, the embedding, may not be the one that takes most work). The 300 MB
hold the interpreter, torch and all that grows with the number of tensors. Calibrating (all but --sensitivity uniform)
brings transformers and a tokenizer into the process, which stay: what calibrating a model of no size takes above the
imports is measured, and is allowed on top. While it runs it has a bound of its own:

    peak <= what calibrating a model of no size takes + 100 MB
            + the largest tensor in float32 and as stored
            + two times the logits of one sequence
            + the activations of one layer, and their gradients
            + what goes into each layer (one vector a token)

so only the last grows with the number of layers. The promise for both together is the larger of the two bounds. The
sequences are few and short here, for the sake of time; octavo itself does --length 512 --sequences 16. Everything
written is deleted at the end.

    python benchmarks/memory.py                      # 4 GB
    python benchmarks/memory.py --gigabytes 0.2 --bits 2.5 --json
    python benchmarks/memory.py --sensitivity uniform
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
from dataclasses import dataclass
from pathlib import Path

import torch

from octavo.base.units import format_size
from octavo.calibrate.text import default_text
from octavo.checkpoints.checkpoint import Entry
from octavo.checkpoints.raw import bytes_of
from octavo.checkpoints.safetensors import header_bytes

ALLOWANCE = 300_000_000
CALIBRATION_ALLOWANCE = 100_000_000
_CHUNK = 1 << 22
_SHARD = 1_000_000_000

# The child starts anew, so that its peak is not its parent's; an empty source measures the imports alone.
# Calibrating first and compressing with what was found is what compressing does by itself.
_CHILD = """
import sys, time
import octavo.compress
from octavo.base.progress import SILENT
source, out, bits, text, length, count = sys.argv[1:]

def report(what):
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(what, int(peak.split()[1]) * 1024, time.perf_counter() - start)

start = time.perf_counter()
sensitivity = "uniform"
if source and text:
    from octavo.compress import sensitivity as settings
    settings.LENGTH, settings.COUNT, settings.STREAMED_FROM = int(length), int(count), 0
    sensitivity = settings.calibrate(source, text, 0, "cpu", SILENT)
    report("CALIBRATED")
if source and out:
    octavo.compress.compress(source, out, bits=float(bits), sensitivity=sensitivity)
report("DONE")
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


@dataclass(frozen=True)
class Text:
    """What to calibrate on: a file, and how many sequences of how many tokens of it."""

    path: Path
    length: int
    sequences: int


@dataclass(frozen=True)
class Peaks:
    """Peak bytes of a process when it had calibrated (0 if it did not) and at its end, and seconds until then."""

    calibrated: int
    done: int
    seconds_to_calibrate: float
    seconds: float


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer with one token a byte."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def peaks_of(source: Path | None, out: Path | None, bits: float, text: Text | None) -> Peaks:
    """Peaks of calibrating on `text`, if any, and compressing to `out`, if any, in a new process."""
    asked = (text.path, text.length, text.sequences) if text else ("", 0, 0)
    arguments = [str(value) for value in (source or "", out or "", bits, *asked)]
    done = subprocess.run([sys.executable, "-c", _CHILD, *arguments], capture_output=True, text=True, check=False)
    report = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    if done.returncode or "DONE" not in report:
        raise SystemExit(f"compressing failed:\n{done.stderr}")
    calibrated, until = report.get("CALIBRATED", ("0", "0"))
    return Peaks(int(calibrated), int(report["DONE"][0]), float(until), float(report["DONE"][1]))


def calibration_working_set(config: dict[str, object], shapes: dict[str, tuple[int, ...]], length: int) -> int:
    """Bytes that calibrating needs beyond what a model of no size does; see the module's text."""
    hidden, intermediate, vocabulary, layers = (
        int(str(config[key])) for key in ("hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers")
    )
    weight = (4 + 2) * max(map(math.prod, shapes.values()))
    logits = 2 * 4 * length * vocabulary
    # Of width `hidden`: two norms, their inputs and factors, q, k, v, rotated q and k, the attention's and the layer's
    # outputs; of width `intermediate`: gate, its activation, up, and their product.
    layer = 2 * 4 * length * (14 * hidden + 4 * intermediate)
    return weight + logits + layer + 4 * length * hidden * layers


def measure(size: int, bits: float, folder: Path, length: int, sequences: int) -> dict[str, float]:
    """All figures, in bytes and seconds, as the module's text explains them; without sequences none is calibrated."""
    config = llama_config(size)
    shapes = llama_shapes(config)
    one_each = {name: shape for shape, name in {shape: name for name, shape in shapes.items()}.items()}
    start = time.perf_counter()
    total = write_checkpoint(folder / "whole", config, shapes, seed=0)
    write_checkpoint(folder / "one-each", config, one_each, seed=0)
    text = None
    if sequences:
        text = Text(folder / "text", length, sequences)
        text.path.write_text(default_text()[: 4 * length * sequences], encoding="utf-8")
        write_tokenizer(folder / "whole")
    written = time.perf_counter() - start
    imports = peaks_of(None, None, bits, None).done
    alone = peaks_of(folder / "one-each", folder / "one-each-out", bits, None).done
    whole = peaks_of(folder / "whole", folder / "whole-out", bits, text)
    stored = sum(path.stat().st_size for path in (folder / "whole-out").glob("*.safetensors"))
    bound = alone - imports + ALLOWANCE
    figures: dict[str, float] = {
        "checkpoint": total,
        "tensors": len(shapes),
        "largest tensor": 2 * max(map(math.prod, one_each.values())),
        "output": stored,
        "imports": imports,
        "working set": alone - imports,
        "peak": whole.done,
        "bound": bound,
    }
    if text:
        nothing = {**config, "hidden_size": 64, "intermediate_size": 64, "vocab_size": 256, "num_hidden_layers": 1}
        nothing |= {"num_attention_heads": 1, "num_key_value_heads": 1}
        write_checkpoint(folder / "nothing", nothing, llama_shapes(nothing), seed=0)
        write_tokenizer(folder / "nothing")
        least = peaks_of(folder / "nothing", None, bits, text).calibrated
        needs = calibration_working_set(config, shapes, length)
        calibration_bound = least + needs + CALIBRATION_ALLOWANCE
        figures |= {
            "bound": max(bound + least - imports, calibration_bound),
            "no size calibrated": least,
            "calibration needs": needs,
            "calibration peak": whole.calibrated,
            "calibration bound": calibration_bound,
            "seconds to calibrate": whole.seconds_to_calibrate,
        }
    return figures | {"seconds to write": written, "seconds in all": whole.seconds}


def _normal(count: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    for start in range(0, count, _CHUNK):
        yield (0.02 * torch.randn(min(_CHUNK, count - start), generator=generator)).to(torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of octavo compress.")
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--bits", type=float, default=3.0)
    parser.add_argument("--sensitivity", choices=("fisher", "uniform"), default="fisher")
    parser.add_argument("--length", type=int, default=128, help="tokens a calibration sequence")
    parser.add_argument("--sequences", type=int, default=2, help="calibration sequences")
    parser.add_argument("--folder", type=Path, help="where to write; needs about 1.5 times the size")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="octavo-memory-", dir=arguments.folder) as folder:
        size = int(arguments.gigabytes * 1_000_000_000)
        sequences = arguments.sequences if arguments.sensitivity == "fisher" else 0
        figures = measure(size, arguments.bits, Path(folder), arguments.length, sequences)
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, figure in figures.items():
            text = (
                f"{figure:.1f}" if "seconds" in name else str(figure) if name == "tensors" else format_size(int(figure))
            )
            print(f"{name:>20}  {text}")
    held = figures["peak"] <= figures["bound"]
    if sequences:
        held &= figures["calibration peak"] <= figures["calibration bound"]
    print("the bound holds" if held else "the bound is broken", file=sys.stderr, flush=True)
    raise SystemExit(not held)


if __name__ == "__main__":
    main()
