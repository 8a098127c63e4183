"""How fast a decoder runs, against what the machine's memory allows.

Making a token reads every weight once, so no decoder makes more tokens a second than the memory's bandwidth divided by
the bytes it reads for one: the memory roofline (Williams et al., 2009, https://doi.org/10.1145/1498765.1498785). The
bandwidth is measured here, in the same process and on as many threads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from octavo.base.errors import ModelError
from octavo.base.huge_pages import use_huge_pages
from octavo.kernels import decoding as kernels
from octavo.kernels.bandwidth import READ, read_bandwidth
from octavo.models.decoder import Decoder
from octavo.models.decoder_step import DecodingStep


@dataclass(frozen=True)
class Speed:
    """Medians of repeated measurements.

    Attributes:
        threads: of torch.
        prompt: tokens of the prompt.
        prefill: tokens of the prompt that are read a second.
        decode: tokens that are made a second after it, one at a time.
        weight_bytes: bytes of weights that a token reads.
        cache_bytes: bytes of keys and values that it reads, on average.
        outside: share of a token's time that is not spent in products with weights.
        python: share of it that is spent outside all operations in C++; 0 where there are none.
        bandwidth: bytes a second that the memory delivers at most.
    """

    threads: int
    prompt: int
    prefill: float
    decode: float
    weight_bytes: int
    cache_bytes: int
    outside: float
    python: float
    bandwidth: float

    @property
    def achieved(self) -> float:
        """Bytes a second that are read while tokens are made."""
        return self.decode * (self.weight_bytes + self.cache_bytes)

    @property
    def roofline(self) -> float:
        """Tokens a second that the bandwidth allows."""
        return self.bandwidth / (self.weight_bytes + self.cache_bytes)


def measure_speed(decoder: Decoder, prompt: int = 512, tokens: int = 64, repeats: int = 3) -> Speed:
    """Measure a decoder on random tokens.

    Args:
        decoder: the model.
        prompt: tokens of the prompt.
        tokens: tokens that are made after it.
        repeats: measurements, of which the median is taken.

    Raises:
        ModelError: the model is not made for so many tokens, or a number is below 1.
    """
    if min(prompt, tokens, repeats) < 1:
        raise ModelError(f"{prompt} and {tokens} tokens, {repeats} times, make no sense", "give numbers of at least 1")
    cache = decoder.cache(1, prompt + tokens)
    step = DecodingStep(decoder, cache)
    drawn = torch.randint(decoder.config.vocabulary, (prompt,), generator=torch.Generator().manual_seed(0)).tolist()

    def read() -> None:
        cache.lengths[0] = 0
        step.prefill(drawn, 0)

    def make() -> None:
        cache.lengths[0] = prompt
        token = 0
        for _ in range(tokens):
            step([token], [0])
            token = step.likeliest[0]

    def compute() -> None:
        for _ in range(tokens):
            step.recompute()

    # In turns, so that what else the machine does falls on all alike; the first fetches memory and wakes threads.
    jobs = read, make, compute, _products(decoder, tokens)
    times = [[_time(job) for job in jobs] for _ in range(repeats + 1)][1:]
    prefill, decode = (statistics.median(each[i] for each in times) for i in range(2))
    outside = statistics.median(1 - products / made for _, made, _, products in times)
    python = statistics.median(1 - computed / made for _, made, computed, _ in times) if step.recompute() else 0.0
    seen = sum(min(prompt + tokens / 2, window or prompt + tokens) for window in decoder.config.windows)
    each = cache.nbytes / decoder.config.layers / (cache.values.shape[3])
    return Speed(
        threads=torch.get_num_threads(),
        prompt=prompt,
        prefill=prompt / prefill,
        decode=tokens / decode,
        weight_bytes=decoder.step_nbytes,
        cache_bytes=round(seen * each),
        outside=max(0.0, outside),
        python=max(0.0, python),
        bandwidth=_bandwidth(),
    )


def _bandwidth() -> float:
    """Of memory in pages like those of the weights."""
    block = torch.ones(READ // 8, dtype=torch.int64)
    use_huge_pages([block])
    return read_bandwidth(block)


def _products(decoder: Decoder, tokens: int) -> Callable[[], None]:
    """All products of some tokens, one at a time, with weights, and nothing else."""
    layers = [(x.attention, x.output, x.inner, x.down) for x in decoder.layers]
    jobs = []
    for linear in (*(each for layer in layers for each in layer), decoder.head):
        rows = sum(piece.shape[0] for piece in linear.pieces)
        kind = {"dtype": decoder.dtype, "device": decoder.device}
        inputs, outputs = torch.ones(1, linear.pieces[0].shape[1], **kind), torch.empty(1, rows, **kind)
        jobs.append(linear.between(inputs, outputs))
    jobs = kernels.together(jobs)

    @torch.inference_mode()
    def run() -> None:
        for _ in range(tokens):
            for job in jobs:
                job(1)

    return run


def _time(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
