"""Tokens a second of octavo's decoder beside llama.cpp and transformers: one model, one run, the same threads.

SmolLM2-135M-Instruct, a batch of one: a prompt of 512 tokens is read, then 64 tokens are made greedily. All runners
take turns, so that what else the machine does falls on all of them; figures are medians over the turns. llama.cpp is
called through its C interface, and its files have the mixtures of types that its own tool makes; both sides quantize
embedding and head. Bits are those of all weights in memory.

Where llama.cpp's kernels for AMX crash on prompts, as 0.3.36 built by GCC 12 does, build it by clang (CC=clang
CXX=clang++), or let it read prompts token by token.

    pip install -e ".[peers]"            # llama.cpp is built from source
    python benchmarks/speed.py           # about ten minutes
    python benchmarks/speed.py --threads 2 --only Q4_0 --one-by-one
    python benchmarks/speed.py --table   # the table again
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from converted import Converted
from octavo.base.arithmetic import Arithmetic
from octavo.formats import Format
from octavo.hub.export import export
from octavo.hub.stored import open_stored
from octavo.kernels.bandwidth import read_bandwidth
from octavo.models import load_language_model
from octavo.models.decoder_loading import load_decoder
from octavo.models.decoder_step import DecodingStep

MODEL = "smollm2-135m"
PROMPT, TOKENS, TURNS = 512, 64, 3
RESULTS = Path(__file__).parent / "results" / "speed.json"

OURS: tuple[tuple[str, Arithmetic], ...] = (
    ("int@8 b64 absmax:bf16", "int8"),
    ("int@4 b64 absmax:bf16", "exact"),
    ("int@4 b64 absmax:bf16", "int8"),
    ("lloyd@4 b64 absmax:bf16", "int8"),
    ("trellis@3 channel rms:u8", "exact"),
    ("trellis@3 channel rms:u8", "int8"),
    ("lloyd@2 b64 absmean:bf16", "exact"),
    ("lloyd@2 b64 absmean:bf16", "int8"),
    ("lloyd@1 b64 absmean:bf16", "int8"),
)
"""Formats of packed weights, and what they are computed in."""

LLAMA_CPP = ("BF16", "Q8_0", "Q4_0", "Q4_K_M", "Q2_K", "TQ2_0")
"""Mixtures of llama.cpp's files."""


@dataclass(frozen=True)
class Runner:
    """Something that runs the model.

    Attributes:
        bits: a weight.
        use_threads: sets how many threads it has.
        read: reads the prompt, from nothing.
        make: makes tokens after it.
    """

    bits: float
    use_threads: Callable[[int], None]
    read: Callable[[], object]
    make: Callable[[], object]


def prompt() -> list[int]:
    return torch.randint(1000, 40_000, (PROMPT,), generator=torch.Generator().manual_seed(0)).tolist()


def octavo_runner(weights: Converted, arithmetic: Arithmetic) -> Runner:
    decoder = load_decoder(weights, arithmetic=arithmetic)
    cache = decoder.cache(1, PROMPT + TOKENS)
    step, tokens = DecodingStep(decoder, cache), prompt()
    numel = sum(torch.Size(weights.shape(name)).numel() for name in weights.names)

    def read() -> None:
        cache.lengths[0] = 0
        step.prefill(tokens, 0)

    def make() -> None:
        cache.lengths[0], token = PROMPT, 0
        for _ in range(TOKENS):
            step([token], [0])
            token = step.likeliest[0]

    return Runner(8 * decoder.nbytes / numel, torch.set_num_threads, read, make)


def llama_cpp_runner(mixture: str, folder: Path, one_by_one: bool) -> Runner:
    import gguf
    import llama_cpp as native

    dense, path = folder / "dense.gguf", folder / f"{mixture}.gguf"
    if not dense.exists():
        export(MODEL, dense, "gguf")
    options = native.llama_model_quantize_default_params()
    options.ftype = getattr(native, f"LLAMA_FTYPE_MOSTLY_{mixture}")
    if native.llama_model_quantize(str(dense).encode(), str(path).encode(), ctypes.byref(options)):
        raise SystemExit(f"llama.cpp made no {mixture} file")
    tensors = gguf.GGUFReader(path).tensors
    bits = 8 * sum(int(tensor.n_bytes) for tensor in tensors) / sum(int(tensor.n_elements) for tensor in tensors)
    model = native.llama_model_load_from_file(str(path).encode(), native.llama_model_default_params())
    settings = native.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_ubatch = PROMPT + TOKENS, PROMPT, PROMPT
    # Its flash attention makes fewer tokens a second from some hundred tokens on.
    settings.flash_attn_type = native.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = native.llama_init_from_model(model, settings)
    vocabulary = native.llama_vocab_n_tokens(native.llama_model_get_vocab(model))
    memory = native.llama_get_memory(context)

    def decode(tokens: list[int]) -> int:
        given = (native.llama_token * len(tokens))(*tokens)
        if native.llama_decode(context, native.llama_batch_get_one(given, len(tokens))):
            raise SystemExit(f"llama.cpp does not run {mixture}")
        logits = np.ctypeslib.as_array(native.llama_get_logits_ith(context, -1), (vocabulary,))
        return int(logits.argmax())

    def read() -> None:
        native.llama_memory_clear(memory, True)
        for piece in [[token] for token in prompt()] if one_by_one else [prompt()]:
            decode(piece)

    def make() -> None:
        native.llama_memory_seq_rm(memory, 0, PROMPT, -1)
        token = 0
        for _ in range(TOKENS):
            token = decode([token])

    def use_threads(threads: int) -> None:
        native.llama_set_n_threads(context, threads, threads)

    return Runner(bits, use_threads, read, make)


def transformers_runner(dtype: torch.dtype) -> Runner:
    model, _ = load_language_model(MODEL, dtype=dtype)
    tokens = torch.tensor([prompt()])
    held: dict[str, Any] = {}

    @torch.inference_mode()
    def read() -> None:
        found = model(tokens, use_cache=True, logits_to_keep=1)
        held["cache"] = found.past_key_values

    @torch.inference_mode()
    def make() -> None:
        cache, token = held["cache"], torch.zeros(1, 1, dtype=torch.int64)
        if (beyond := cache.get_seq_length() - PROMPT) > 0:
            cache.crop(-beyond)
        for _ in range(TOKENS):
            token = model(token, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1:].argmax(-1)

    return Runner(8.0 * dtype.itemsize, torch.set_num_threads, read, make)


def runners(only: str, folder: Path, one_by_one: bool) -> Iterator[tuple[str, Runner]]:
    """Names and runners, loaded one by one."""
    stored = open_stored(MODEL)
    made: list[tuple[str, Callable[[], Runner]]] = [
        ("transformers bfloat16", lambda: transformers_runner(torch.bfloat16)),
        ("octavo bfloat16, exact", lambda: octavo_runner(Converted(stored, torch.bfloat16), "exact")),
        ("octavo bfloat16, int8", lambda: octavo_runner(Converted(stored, torch.bfloat16), "int8")),
    ]
    for text, arithmetic in OURS:
        made.append(
            (
                f"octavo {text}, {arithmetic}",
                lambda text=text, how=arithmetic: octavo_runner(Converted(stored, format=Format.parse(text)), how),
            )
        )
    if importlib.util.find_spec("llama_cpp"):
        silence_llama_cpp()
        made += [
            (f"llama.cpp {kind}", lambda kind=kind: llama_cpp_runner(kind, folder, one_by_one)) for kind in LLAMA_CPP
        ]
    for name, make in made:
        if only in name:
            yield name, make()


@cache
def silence_llama_cpp() -> Any:
    """Let llama.cpp say nothing from now on; it calls what is returned, which the cache keeps alive."""
    import llama_cpp as native

    say_nothing = native.llama_log_callback(lambda *_: None)
    native.llama_log_set(say_nothing, ctypes.c_void_p(0))
    return say_nothing


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measured(numbers: list[int], loaded: dict[str, Runner]) -> dict[str, Any]:
    """Results by number of threads, which take turns too."""
    times: dict[int, dict[str, list[tuple[float, float]]]] = {n: {name: [] for name in loaded} for n in numbers}
    bandwidth: dict[int, list[float]] = {threads: [] for threads in numbers}
    for turn in range(TURNS + 1):
        for threads in numbers:
            torch.set_num_threads(threads)
            bandwidth[threads].append(read_bandwidth(repeats=1))
            for name, runner in loaded.items():
                runner.use_threads(threads)
                both = seconds(runner.read), seconds(runner.make)
                if turn:
                    times[threads][name].append(both)
    return {
        str(threads): {"bandwidth": max(bandwidth[threads]), "rows": _rows(times[threads], loaded)}
        for threads in numbers
    }


def _rows(times: dict[str, list[tuple[float, float]]], loaded: dict[str, Runner]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "bits": loaded[name].bits,
            "prompt": PROMPT / statistics.median(read for read, _ in found),
            "answer": TOKENS / statistics.median(make for _, make in found),
        }
        for name, found in times.items()
    }


def table(results: dict[str, Any]) -> Table:
    out = Table("runs on", "bits/weight", *(f"{what}, {n} threads" for n in results for what in ("prompt", "answer")))
    names = dict.fromkeys(name for found in results.values() for name in found["rows"])
    for name in names:
        cells = []
        for found in results.values():
            row = found["rows"].get(name)
            cells += ["", ""] if row is None else [f"{row['prompt']:,.0f}", f"{row['answer']:.1f}"]
        bits = next(found["rows"][name]["bits"] for found in results.values() if name in found["rows"])
        out.add_row(name, f"{bits:.2f}", *cells)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", default="", help="only runners whose names contain this; nothing is kept")
    parser.add_argument("--one-by-one", action="store_true", help="llama.cpp reads prompts token by token")
    parser.add_argument("--table", action="store_true", help="print the kept results")
    options = parser.parse_args()
    if options.table:
        results = json.loads(RESULTS.read_text())
    else:
        with tempfile.TemporaryDirectory() as folder:
            loaded = dict(runners(options.only, Path(folder), options.one_by_one))
            results = measured(options.threads, loaded)
        if not options.only:
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    console = Console(width=130)
    for threads, found in results.items():
        console.print(f"{threads} threads: the memory delivers {found['bandwidth'] / 1e9:.1f} GB/s")
    console.print(table(results))


if __name__ == "__main__":
    main()
