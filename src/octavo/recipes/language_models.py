"""Small language models of a family of sizes: how large they are, what a token costs, and how they are trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from octavo.models.decoder_config import DecoderConfig
from octavo.models.transformer import Transformer
from octavo.training import TrainingConfig
from octavo.training.seeding import generator_of

REFERENCE_WIDTH = 64
"""The width at which a learning rate is meant; others get it in inverse proportion to theirs (as in μP)."""


@dataclass(frozen=True)
class Size:
    """Width, depth and heads of a model."""

    hidden: int
    layers: int
    heads: int

    def config(self, vocabulary: int, context: int) -> DecoderConfig:
        """Its network, with one matrix for embedding and head."""
        return DecoderConfig.plain(vocabulary, self.hidden, self.layers, self.heads, context=context)

    def network(self, vocabulary: int, context: int, seed: int) -> Transformer:
        """A network with initial weights of a seed."""
        return Transformer(self.config(vocabulary, context), generator_of(seed, "initial weights"))

    def learning_rate(self, at_reference: float) -> float:
        """The rate for this width, of one that is right at `REFERENCE_WIDTH`."""
        return at_reference * REFERENCE_WIDTH / self.hidden


def parameter_count(config: DecoderConfig) -> int:
    """Parameters, the head included and the input embedding not."""
    heads = config.rotary.width * (2 * config.heads + 2 * config.shared_heads) * config.hidden
    layer = heads + 3 * config.hidden * config.inner + 2 * config.hidden
    return config.layers * layer + config.hidden + config.vocabulary * config.hidden


def operations_per_token(config: DecoderConfig, length: int) -> float:
    """FLOPs that training takes for a token: 6 a parameter in products, and those of attention over a whole window."""
    norms = (2 * config.layers + 1) * config.hidden
    attention = 12 * config.layers * length * config.heads * config.rotary.width
    return 6 * (parameter_count(config) - norms) + attention


def schedule(tokens: float, length: int, steps: int, fewest: int) -> tuple[int, int]:
    """Steps and windows a step for so many tokens: as many steps as asked, unless batches came below the fewest."""
    windows = max(1, round(tokens / length))
    batch = max(fewest, round(windows / steps))
    return max(1, math.ceil(windows / batch)), batch


def training_config(steps: int, rate: float, seed: int, device: str) -> TrainingConfig:
    """A complete run: a tenth of warm-up, then half a cosine down to zero."""
    return TrainingConfig().changed(
        {
            "steps": steps,
            "seed": seed,
            "optimizer.learning_rate": rate,
            "schedule.warmup": max(1, steps // 10),
            "precision.device": device,
            "precision.dtype": "bfloat16" if torch.device(device).type == "cuda" else "float32",
        }
    )
