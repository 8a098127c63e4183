"""Tokens a second of the embedded model on octavo's decoder, its weights dense and packed, and on transformers.

A prompt of 512 tokens and an answer of 64, a batch of one, medians of three. Nothing else should run on the machine.

    python benchmarks/generation.py                                     dense and two formats
    python benchmarks/generation.py "int@3 b64 absmax:bf16" --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from octavo.decoding.speed import measure_speed
from octavo.formats import Format
from octavo.formats.tensor import QuantizedTensor
from octavo.hub.stored import StoredModel, open_stored
from octavo.models import load_language_model
from octavo.models.decoder_loading import load_decoder

MODEL = "smollm2-135m"
FORMATS = ("int@4 b32 absmax:fp16", "int@8 b32 absmax:fp16")
PROMPT, TOKENS, REPEATS = 512, 64, 3

HEADS = ("runs on", "weights", "prompt, tokens/s", "answer, tokens/s", "outside products", "of the roofline")


@dataclass(frozen=True)
class Converted:
    """A dense checkpoint whose matrices are read in another dtype, or packed."""

    stored: StoredModel
    dtype: torch.dtype = torch.float32
    format: Format | None = None

    @property
    def config(self) -> Mapping[str, Any]:
        return self.stored.config

    @property
    def names(self) -> tuple[str, ...]:
        return self.stored.names

    @property
    def activations(self) -> dict[str, Any] | None:
        return self.stored.activations

    def shape(self, name: str) -> tuple[int, ...]:
        return self.stored.shape(name)

    def quantized(self, name: str) -> QuantizedTensor | None:
        packs = self.format is not None and len(self.shape(name)) == 2
        return self.format.quantize(self.stored.dense(name)) if packs and self.format else None

    def dense(self, name: str) -> Tensor:
        return self.stored.dense(name).to(self.dtype)


def decoder_row(name: str, weights: Converted) -> tuple[str, ...]:
    """A row of the table for octavo's decoder."""
    found = measure_speed(load_decoder(weights), PROMPT, TOKENS, REPEATS)
    speeds = f"{found.prefill:.0f}", f"{found.decode:.1f}"
    return "octavo", name, *speeds, f"{found.outside:.1%}", f"{found.decode / found.roofline:.0%}"


def transformers_row(dtype: torch.dtype) -> tuple[str, ...]:
    """A row of the table for transformers' eager generation."""
    model, _ = load_language_model(MODEL, dtype=dtype)
    prompt = torch.randint(1000, 40_000, (1, PROMPT), generator=torch.Generator().manual_seed(0))

    def generate(tokens: int) -> Callable[[], object]:
        options = {"do_sample": False, "min_new_tokens": tokens, "max_new_tokens": tokens, "pad_token_id": 0}
        return lambda: model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)

    first, all_of_them = median(generate(1)), median(generate(TOKENS + 1))
    speeds = f"{PROMPT / first:.0f}", f"{TOKENS / (all_of_them - first):.1f}"
    return "transformers", str(dtype).removeprefix("torch."), *speeds, "", ""


def median(run: Callable[[], object]) -> float:
    """Seconds of a call, the first of which does not count."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", default=FORMATS, help="formats of packed weights")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    stored = open_stored(MODEL)
    print(f"{options.threads} threads\n\n| {' | '.join(HEADS)} |\n|---|---|{'--:|' * (len(HEADS) - 2)}")
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        print(f"| {' | '.join(decoder_row(name, Converted(stored, dtype)))} |", flush=True)
    for text in options.formats:
        row = decoder_row(f"`{text}`", Converted(stored, format=Format.parse(text)))
        print(f"| {' | '.join(row)} |", flush=True)
    for dtype in (torch.float32, torch.bfloat16):
        print(f"| {' | '.join(transformers_row(dtype))} |", flush=True)


if __name__ == "__main__":
    main()
