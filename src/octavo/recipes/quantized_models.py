"""Small language models whose body trains at some precision: what they take in memory, and how they are trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from octavo.base.progress import Progress
from octavo.formats import Format, QuantizedTensor
from octavo.formats.frozen import Frozen
from octavo.formats.scaling import blocks_of
from octavo.layers.fake_quantized import FakeQuantizedLinear
from octavo.models.decoder_config import DecoderConfig
from octavo.models.transformer import Transformer
from octavo.training import TokenWindows, TrainingConfig, next_token_loss, train
from octavo.training.configuration import DataConfig
from octavo.training.precision import FlipRate, StartQuantizing
from octavo.training.seeding import generator_of
from octavo.training.tokenized import tokenize

START = 0.1
"""Share of the steps that are made before anything is quantized."""

DECAY = 0.1
"""Share of the steps in which the learning rate falls, at the end."""

KMEANS, UNIFORM, CENTERED, FULL = "kmeans", "uniform", "centered", "full"
"""Codebooks by k-means; integers, at one bit signs; signs of what is left of a block's mean; bfloat16."""

BYTES = 256
"""Tokens of the vocabulary."""

LENGTH = 128
"""Tokens a sequence."""


def format_of(method: str, bits: int) -> str | None:
    """The published recipe's format: blocks of 64 under scales of their mean up to 2 bits, of their maximum above.

    The integers are {-L … L}, L = 2^(bits - 1) - 1, and at one bit, where that is zero alone, the signs.
    """
    if method == FULL:
        return None
    scaling = f"b64 {'absmean' if bits <= 2 else 'absmax'}:bf16"
    if method == KMEANS:
        return f"lloyd@{bits} {scaling}"
    return f"int@1 {scaling}" if bits == 1 else f"int(levels={2**bits - 1}) {scaling}"


@dataclass(frozen=True)
class Shape:
    """Width, depth and heads of a network over bytes, embedding and head tied.

    Attributes:
        hidden: a multiple of 64, so that blocks are whole.
        layers: blocks of attention and feed-forward.
        heads: of attention.
        inner: width of the feed-forward layers, a multiple of 64.
    """

    hidden: int
    layers: int
    heads: int
    inner: int

    def config(self, vocabulary: int) -> DecoderConfig:
        return DecoderConfig.plain(
            vocabulary, self.hidden, self.layers, self.heads, inner=self.inner, context=LENGTH, tied=True
        )

    @property
    def body(self) -> int:
        """Weights that are quantized: all matrices but the embedding."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.inner)

    def bytes(self, method: str, bits: int, vocabulary: int) -> int:
        """What the network takes with codes at `bits`, bf16 scales to each 64 weights, and bf16 all else."""
        stored = 16.0 if method == FULL else bits + 16 / 64
        others = vocabulary * self.hidden + (2 * self.layers + 1) * self.hidden
        return math.ceil((self.body * stored + 16 * others) / 8)


@dataclass(frozen=True, eq=False)
class Centered:
    """A format of what is left of weights when the mean of each block is taken off (see octavo.formats.frozen.Frozen).

    The mean is not put back: signs are balanced within each block, as in BitNet (arXiv 2310.11453).

    Attributes:
        inner: the format.
    """

    inner: Frozen

    @property
    def format(self) -> Format:
        return self.inner.format

    def values(self, weights: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        return self.inner.values(self._centered(weights))

    def quantize(self, weights: Float[Tensor, "rows columns"]) -> QuantizedTensor:
        return self.inner.quantize(self._centered(weights))

    def _centered(self, weights: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        plain = weights.detach()
        run = self.format.scaling.run(plain.shape[1])
        return torch.cat([(part - part.mean(-1, keepdim=True)).flatten(1) for part in blocks_of(plain, run)], 1)


def prepare(text: Sequence[str], place: Path, progress: Progress) -> None:
    """Write the corpus as bytes, once, before runs that share it start.

    Args:
        text: files and folders; none for the default corpus.
        place: where it is kept.
        progress: told how far it is.
    """
    tokenize(_data(text), place, progress)


def _data(text: Sequence[str]) -> DataConfig:
    return DataConfig(text=tuple(text), tokenizer="bytes", length=LENGTH)


def train_one(job: Mapping[str, Any]) -> dict[str, Any]:
    """Train a network and judge it on held-out text at some moments.

    Args:
        job: `shape` (hidden, layers, heads, inner), `method`, `bits`, `steps`, `batch`, `rate`, `seed`, `moments`
            (steps after which it is judged), `decay` (whether the rate falls at the end), `held_out` (sequences that
            it is judged on), `text`, `data` (where the corpus is), `device`.

    Returns:
        `losses` (nats a byte at each moment), `tokens` (that were seen then), `parameters`, `memory` (bytes), `flips`
        (share of indices that a step changes, at the end) and `seconds`.
    """
    text = tokenize(_data(job["text"]), Path(job["data"]))
    shape, vocabulary = Shape(*job["shape"]), text.vocabulary.size
    network = Transformer(
        shape.config(vocabulary), generator_of(job["seed"], "initial weights"), linear=FakeQuantizedLinear
    )
    cuda = torch.device(job["device"]).type == "cuda"
    steps, warmup = job["steps"], max(1, round(0.05 * job["steps"]))
    config = TrainingConfig(steps=steps, seed=job["seed"]).changed(
        {
            "optimizer.learning_rate": job["rate"],
            "schedule.name": "wsd" if job["decay"] else "constant",
            "schedule.warmup": warmup,
            "schedule.decay": DECAY,
            "precision.device": job["device"],
            "precision.dtype": "bfloat16" if cuda else "float32",
            "precision.compile": cuda,
        }
    )
    hooks: list[Any] = []
    format = format_of(job["method"], job["bits"])
    flips = FlipRate(every=max(2, steps // 20))
    if format is not None:
        start = min(*job["moments"], round(START * steps))
        hooks = [StartQuantizing(network, {"*": format}, start), *([_Center()] if job["method"] == CENTERED else [])]
        hooks.append(flips)
    judge = _Judge(TokenWindows(text.held_out, LENGTH, 16, None), job["held_out"] // 16, job["moments"])
    source = TokenWindows(text.train, LENGTH, job["batch"], job["seed"])
    done = train(network, next_token_loss, source, config, hooks=[*hooks, judge])
    if steps in job["moments"]:
        judge.look(network)
    return {
        "losses": judge.losses,
        "tokens": [moment * source.tokens for moment in job["moments"]],
        "parameters": shape.body,
        "memory": shape.bytes(job["method"], job["bits"], vocabulary),
        "flips": flips.rates[-1][1] if flips.rates else None,
        "seconds": done.seconds,
    }


class _Center:
    """A hook that has layers round what is left of each block's mean; to come after the start."""

    def __call__(self, step: int, model: nn.Module, optimizer: Optimizer) -> None:
        for layer in model.modules():
            if isinstance(layer, FakeQuantizedLinear) and not isinstance(layer.frozen, Centered | None):
                layer.frozen = Centered(layer.frozen)


class _Judge:
    """A hook that judges the network on held-out text, everything rounded as it would be stored.

    Args:
        source: held-out text.
        batches: of it.
        moments: steps that are done by then.

    Attributes:
        losses: found so far, nats a token.
    """

    def __init__(self, source: TokenWindows, batches: int, moments: Sequence[int]) -> None:
        self._source, self._batches, self._moments = source, batches, moments
        self.losses: list[float] = []

    def __call__(self, step: int, model: nn.Module, optimizer: Optimizer) -> None:
        if step in self._moments:
            self.look(model)

    @torch.no_grad()
    def look(self, model: nn.Module) -> None:
        """Judge the network as it is now."""
        quantized = {
            layer.weight
            for layer in model.modules()
            if isinstance(layer, FakeQuantizedLinear) and layer.frozen is not None
        }
        others = [parameter for parameter in model.parameters() if parameter not in quantized]
        kept = [parameter.clone() for parameter in others]
        for parameter in others:
            parameter.copy_(parameter.bfloat16())
        total, device = 0.0, kept[0].device
        for index in range(self._batches):
            batch = {name: tensor.to(device) for name, tensor in self._source.batch(index).items()}
            total += float(next_token_loss(model, batch, torch.Generator())[0])
        for parameter, before in zip(others, kept, strict=True):
            parameter.copy_(before)
        self.losses.append(total / self._batches)
