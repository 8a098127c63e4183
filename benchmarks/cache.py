"""What a quantized cache of keys and values costs: KL to the same model with its cache as it is, on the embedded model.

Sequences come in chunks of a group through a cache that packs all older groups, as `octavo evaluate --cache` does it:
every token sees between one and two groups as they came, and the rest quantized. Scales of values belong to tokens,
those of keys to channels or, for comparison, to tokens. Bits count codes and scales of what is packed.

    python benchmarks/cache.py                                    the table of docs/cache.md; ten minutes on one core
    python benchmarks/cache.py "int@4 b32/int@2 b32" --group 32   other formats
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from octavo.calibrate.running import cached_logits, logits
from octavo.calibrate.text import heldout_text, token_sequences
from octavo.measure.divergence import Divergence, compare, summarize
from octavo.models import load_language_model
from octavo.models.cache import QuantizedCache
from octavo.models.cache_format import GROUP, CacheFormat

FORMATS = tuple(f"cbrt-normal@{bits} b64 signmax:bf16" for bits in (8, 4, 3, 2))

HEADS = ("keys", "values", "a key's scale is of a", "bits", "KL, nats/token", "perplexity", "dense", "same top token")


@dataclass(frozen=True)
class Row:
    """A format, the bits a number of what it packed, and the divergence."""

    format: CacheFormat
    bits: float
    found: Divergence


@torch.inference_mode()
def rows(formats: list[CacheFormat], count: int, length: int) -> Iterator[Row]:
    """Each format on `count` sequences of `length` tokens of octavo's held-out text."""
    model, tokenizer = load_language_model("smollm2-135m")
    generator = torch.Generator().manual_seed(0)
    sequences = token_sequences(tokenizer, heldout_text(), length, count, generator=generator)
    reference = [logits(model, row) for row in sequences]
    for format in formats:
        found, bits = [], 0.0
        for row, expected in zip(sequences, reference, strict=True):
            cache = QuantizedCache(model.config, format)
            found.append(compare(expected, cached_logits(model, row, cache, format.group), row[1:]))
            bits = cache.memory().packed_bits
        yield Row(format, bits, summarize(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", default=FORMATS, help="FORMAT or KEYS/VALUES")
    parser.add_argument("--group", type=int, default=GROUP, help="tokens that are packed together")
    parser.add_argument("--count", type=int, default=4, help="sequences")
    parser.add_argument("--length", type=int, default=512, help="tokens a sequence")
    options = parser.parse_args()
    read = [CacheFormat.parse(text) for text in options.formats]
    formats = [
        CacheFormat(format.keys, format.values, options.group, sharing)
        for format in read
        for sharing in ("channel", "token")
    ]
    print(f"| {' | '.join(HEADS)} |\n|---|---|---|{'--:|' * (len(HEADS) - 3)}")
    for row in rows(formats, options.count, options.length):
        figures = (
            f"{row.bits:.2f}",
            f"{row.found.forward.mean:.4f} ± {row.found.forward.error:.4f}",
            f"{row.found.perplexity:.2f}",
            f"{row.found.reference_perplexity:.2f}",
            f"{row.found.agreement.mean:.1%}",
        )
        words = (f"`{row.format.keys}`", f"`{row.format.values}`", row.format.key_scales)
        print(f"| {' | '.join((*words, *figures))} |", flush=True)


if __name__ == "__main__":
    main()
