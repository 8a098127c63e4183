"""Loading takes what the file takes, and tokens take what their keys and values take; measured in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from octavo.formats.format import Format
from octavo.layers.linear import SLAB

LAYERS = 16
KEPT = [
    ("int@4 b32 absmax:fp16", "resident"),
    ("int(levels=3) b32 absmean:bf16", "stored"),
    ("grid(step=0.05) channel rms:fp32 ans", "stored"),
    ("grid(step=0.05,states=8) separable ans", "stored"),
]

MEASURE = """
import sys
from pathlib import Path

import torch

from octavo.decoding.engine import Engine
from octavo.decoding.sampling import Sampling
from octavo.hub.stored import open_stored
from octavo.models.decoder_loading import load_decoder
from octavo.models.decoder_step import DecodingStep

def field(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

def forget_peak():
    Path("/proc/self/clear_refs").write_text("5")

torch.set_num_threads(1)
# What code takes when it first runs is no model's memory.
DecodingStep(small := load_decoder(open_stored(sys.argv[2]), keep=sys.argv[3]), small.cache(1, 2))([1], [0])
before = field("VmRSS")
forget_peak()
decoder = load_decoder(open_stored(sys.argv[1]), keep=sys.argv[3])
loaded = field("VmHWM") - before
engine = Engine(decoder, 1, 512)
engine.admit([1, 2, 3], Sampling(), 100)
for _ in range(2):
    engine.step()
before = field("VmRSS")
forget_peak()
for _ in range(4):
    engine.step()
print(loaded, decoder.nbytes, field("VmHWM") - before, engine.cache.nbytes)
"""


def write_packed(folder: Path, fmt: str, hidden: int, vocabulary: int, generator: torch.Generator) -> int:
    """A model whose matrices of one shape are the same; the size of its file."""
    inner, shared = 4 * hidden, hidden // 4
    sides = {"self_attn.q_proj": (hidden, hidden), "self_attn.o_proj": (hidden, hidden)}
    sides |= {f"self_attn.{name}_proj": (shared, hidden) for name in "kv"}
    sides |= {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
    named = {f"model.layers.{i}.{name}.weight": side for i in range(LAYERS) for name, side in sides.items()}
    named["model.embed_tokens.weight"] = (vocabulary, hidden)
    sizes = {size: torch.randn(size, generator=generator) for size in set(named.values())}
    quantized = {size: Format.parse(fmt).quantize(weights) for size, weights in sizes.items()}
    parts, entries = {}, {}
    for name, size in named.items():
        parts |= {f"{name}.{part}": value.clone() for part, value in quantized[size].parts.items()}
        entries[name] = {"format": fmt, "shape": [*size], "dtype": "float32"}
    norms = [f"layers.{i}.{norm}_layernorm" for i in range(LAYERS) for norm in ("input", "post_attention")]
    for name in [*norms, "norm"]:
        parts[f"model.{name}.weight"] = torch.ones(hidden)
    folder.mkdir()
    save_file(parts, folder / "model.safetensors", {"format": "pt"})
    config = {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "quantization_config": {"quant_method": "octavo", "version": 1, "tensors": entries},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return (folder / "model.safetensors").stat().st_size


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be measured on Linux only")
@pytest.mark.parametrize(("fmt", "keep"), KEPT)
def test_memory_is_that_of_the_file_and_of_the_cache(
    fmt: str, keep: str, tmp_path: Path, generator: torch.Generator
) -> None:
    size = write_packed(tmp_path / "model", fmt, 512, 32768, generator)
    write_packed(tmp_path / "small", fmt, 64, 256, generator)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "model"), str(tmp_path / "small"), keep]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded, weights, grown, cache = map(int, run.stdout.split())
    assert weights < size
    assert loaded < 1.1 * size
    # Beside keys and values, a few rows of weights are dense for the length of a product.
    assert grown < cache + 3 * 4 * SLAB
