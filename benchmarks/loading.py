"""Memory of loading a compressed checkpoint and of generating with it, against its file and its cache.

A process loads a model into octavo's decoder and makes tokens; it reads what it holds (VmRSS) and held at most
(VmHWM) before and after. Loading promises a peak of the file's size and 10 % for formats of fixed width, whose codes
stay as they are stored. Entropy-coded formats and codes of a base that is no power of two are brought to what
`octavo inspect` calls resident bits, unless they are kept as stored: then the promise holds for them, too. Tokens
promise nothing but the cache of keys and values, and what is decoded at a time.

    octavo compress smollm2-135m small --format "int@4 b64 absmax:bf16"
    python benchmarks/loading.py small
"""

from __future__ import annotations

import argparse
import re
from math import prod
from pathlib import Path

# All that a run imports comes before the first reading.
import torch
import torch._dynamo  # what torch itself imports when it first calls an op of ours
import transformers  # noqa: F401

from octavo.decoding.engine import Engine
from octavo.decoding.sampling import Sampling
from octavo.hub.stored import open_stored
from octavo.models.decoder_loading import load_decoder

MEGABYTE = 1e6


def held(kind: str) -> float:
    """Megabytes of this process by a name of /proc/self/status."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise SystemExit("this system does not tell a process's memory by /proc/self/status")
    return int(found[1]) * 1024 / MEGABYTE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--arithmetic", choices=("exact", "int8"), default="int8")
    parser.add_argument("--keep", choices=("resident", "stored"), default="resident")
    parser.add_argument("--tokens", type=int, default=900)
    options = parser.parse_args()
    stored = sum(path.stat().st_size for path in options.model.glob("*.safetensors")) / MEGABYTE
    model = open_stored(options.model)
    model.dense(min(model.names, key=lambda name: prod(model.shape(name))))  # so that code is in memory, too
    begin = held("VmRSS")
    with torch.inference_mode():
        decoder = load_decoder(model, arithmetic=options.arithmetic, keep=options.keep)
    peak = held("VmHWM") - begin
    print(f"file {stored:.1f} MB; loading peaks at {peak:.1f} MB, {100 * (peak / stored - 1):+.1f} %")
    print(f"weights take {decoder.nbytes / MEGABYTE:.1f} MB in memory")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    engine = Engine(decoder, slots=1, context=1024)
    engine.admit([1, 2, 3], Sampling(), options.tokens)
    few = 0.0
    for made in range(options.tokens):
        engine.step()
        few = held("VmRSS") if made == 16 else few
    grown = held("VmHWM") - few
    cache = engine.cache.nbytes / MEGABYTE
    print(f"{options.tokens - 16} tokens add {grown:.1f} MB; the cache of 1,024 tokens is {cache:.1f} MB")


if __name__ == "__main__":
    main()
