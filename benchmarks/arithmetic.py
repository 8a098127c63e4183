"""What eight-bit arithmetic costs: KL divergence of the decoder's exact logits to those of `--arithmetic int8`.

SmolLM2-135M-Instruct, packed in some formats, on held-out sequences of 256 tokens of four kinds (benchmarks/texts.py),
nats a token over the full vocabulary; ± is the standard error over sequences. *Tokens*: each is made by a step of its
own, which is what generation does. *Prompts*: the sequence is read at once. Beside them stands what the
format itself costs, from the model as it is.

    python benchmarks/arithmetic.py              about five minutes on two cores
    python benchmarks/arithmetic.py "lloyd@3 b64 absmax:bf16"
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from converted import Converted
from octavo.formats import Format
from octavo.hub.stored import open_stored
from octavo.measure.divergence import compare, estimate
from octavo.models import load_language_model
from octavo.models.decoder import Decoder
from octavo.models.decoder_loading import load_decoder
from octavo.models.decoder_step import DecodingStep
from texts import sequences

MODEL = "smollm2-135m"
FORMATS = ("int@8 b64 absmax:bf16", "int@4 b64 absmax:bf16", "lloyd@4 b64 absmax:bf16", "lloyd@3 b64 absmax:bf16")
SEQUENCES, LENGTH = 8, 256


def read(decoder: Decoder, tokens: Tensor) -> Tensor:
    return decoder.logits(tokens[None])[0]


def made(decoder: Decoder, tokens: Tensor) -> Tensor:
    step = DecodingStep(decoder, decoder.cache(1, len(tokens)))
    return torch.stack([step([token], [0])[0].clone() for token in tokens.tolist()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", default=FORMATS)
    options = parser.parse_args()
    _, tokenizer = load_language_model(MODEL)
    texts = [row[:LENGTH] for row in sequences(tokenizer, 4, SEQUENCES)[1]]
    stored = open_stored(MODEL)
    dense = load_decoder(Converted(stored))
    original = [read(dense, tokens) for tokens in texts]
    table = Table("format", "format's own", "tokens", "prompts")
    for text in track(options.formats, "measuring"):
        weights = Converted(stored, format=Format.parse(text))
        exact, rounded = load_decoder(weights), load_decoder(weights, arithmetic="int8")
        expected = [read(exact, tokens) for tokens in texts]

        def cost(from_: list[Tensor], run: Callable[[Tensor], Tensor]) -> str:
            found = [
                compare(before, run(tokens), tokens[1:]).forward.mean()
                for before, tokens in zip(from_, texts, strict=True)
            ]
            kl = estimate(torch.stack(found))
            return f"{kl.mean:.5f} ± {kl.error:.5f}"

        own = cost(original, lambda tokens, exact=exact: read(exact, tokens))
        step = cost(expected, lambda tokens, rounded=rounded: made(rounded, tokens))
        prompt = cost(expected, lambda tokens, rounded=rounded: read(rounded, tokens))
        table.add_row(text, own, step, prompt)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
