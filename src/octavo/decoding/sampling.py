"""Choosing the next token from logits, by the definitions of transformers' logits processors, in their order.

A repetition penalty comes first, then temperature, top-k, top-p and min-p. What is left is drawn from by one uniform
number of the request's own generator, so that a request's tokens depend on nothing but its logits and its seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from octavo.base.errors import ModelError
from octavo.base.threads import on_one_thread
from octavo.kernels.decoding import draw

FEW = 512
"""Candidates that are sorted first for top-p: nearly always enough, and far sooner done than a whole vocabulary."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 takes the likeliest token; above, logits are divided by it.
        top_k: only the k likeliest tokens; 0 for all.
        top_p: only the fewest tokens whose probabilities exceed this together (Holtzman et al., 2019,
            https://arxiv.org/abs/1904.09751); 1 for all.
        min_p: only tokens at least so many times as likely as the likeliest (Nguyen et al., 2024,
            https://arxiv.org/abs/2407.01082); 0 for all.
        repetition_penalty: divides positive logits of tokens that occurred, and multiplies negative ones (Keskar et
            al., 2019, https://arxiv.org/abs/1909.05858); 1 for none.
        seed: of the request's generator.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, sensible, values in (
            ("temperature", 0 <= self.temperature < math.inf, "at least 0"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0"),
        ):
            if not sensible:
                raise ModelError(f"{name} {getattr(self, name)} makes no sense", f"use {values}")
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise ModelError(f"seed {self.seed} has more than 64 bits", "use a smaller one")


def candidates(
    logits: Float[Tensor, " vocabulary"], sampling: Sampling
) -> tuple[Float[Tensor, " candidates"], Int[Tensor, " candidates"]]:
    """The tokens that may be drawn at a temperature above 0, and their logits over the temperature."""
    values = logits / sampling.temperature
    tokens = torch.arange(len(values))
    if 0 < sampling.top_k < len(values):
        least = values.topk(sampling.top_k).values[-1]
        tokens = (values >= least).nonzero()[:, 0]
        values = values[tokens]
    if sampling.top_p < 1:
        values, order = _top_p(values, sampling.top_p)
        tokens = tokens[order]
    if sampling.min_p > 0:
        likely = (values - values.max()).exp() >= sampling.min_p
        values, tokens = values[likely], tokens[likely]
    return values, tokens


def _top_p(values: Float[Tensor, " n"], top_p: float) -> tuple[Float[Tensor, " kept"], Int[Tensor, " kept"]]:
    """The fewest values of most probability whose probabilities exceed `top_p` together, and their places."""
    whole = values.double().logsumexp(0)
    count = min(FEW, len(values))
    while True:
        sorted_values, order = values.topk(count)
        before = (sorted_values.double() - whole).exp().cumsum(0)
        if count == len(values) or before[-1] >= top_p:
            # A token stays if those likelier than it do not reach the share.
            kept = 1 + int((before[:-1] < top_p).sum())
            return sorted_values[:kept], order[:kept]
        count = min(8 * count, len(values))


class Sampler:
    """Chooses the tokens of one request.

    Args:
        sampling: how.
        prompt: tokens that count as having occurred.
        vocabulary: how many tokens there are.
    """

    def __init__(self, sampling: Sampling, prompt: Iterable[int], vocabulary: int) -> None:
        self.sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)
        self._occurred: Tensor | None = None
        if sampling.repetition_penalty != 1:
            self._occurred = torch.zeros(vocabulary, dtype=torch.bool)
            self._occurred[list(prompt)] = True

    @property
    def greedy(self) -> bool:
        """Whether the next token is the likeliest, whatever came before: all that `accept` needs to know."""
        return self.sampling.temperature == 0 and self._occurred is None

    @property
    def plain(self) -> bool:
        """Whether the next token is drawn from all, by their logits and the temperature alone."""
        sampling = self.sampling
        filters = sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0
        return sampling.temperature > 0 and not filters and self._occurred is None

    def uniform(self) -> float:
        """The next number of the request's generator, from 0 up to 1."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def accept(self, likeliest: int) -> int:
        """The likeliest token, where there is one.

        Raises:
            ModelError: it is -1, since the logits are not finite.
        """
        if likeliest < 0:
            raise ModelError("the model's logits are not finite", "its weights are damaged, or overflow in this dtype")
        return likeliest

    def __call__(self, logits: Float[Tensor, " vocabulary"]) -> int:
        """The next token, which counts as having occurred from now on.

        Raises:
            ModelError: the logits are not finite.
        """
        if self._occurred is not None:
            penalty = self.sampling.repetition_penalty
            punished = torch.where(logits < 0, logits * penalty, logits / penalty)
            logits = torch.where(self._occurred, punished, logits)
        # numpy's search takes a fifth of the time of torch's; both find what is no number.
        place = int(logits.numpy().argmax())
        token = self.accept(place if math.isfinite(logits[place]) else -1)
        if self.sampling.temperature > 0:
            values, tokens = candidates(logits, self.sampling)
            token = int(tokens[draw(values[None], [0], [int(values.argmax())], [1.0], [self.uniform()])[0]])
        if self._occurred is not None:
            self._occurred[token] = True
        return token


def choose(
    samplers: Sequence[Sampler], logits: Float[Tensor, "n vocabulary"], rows: Sequence[int], likeliest: Sequence[int]
) -> list[int]:
    """The next token of each request, as its sampler chooses it, but sooner: many are drawn at once.

    Args:
        samplers: of the requests.
        logits: of these and others.
        rows: where each request's are.
        likeliest: of each request the likeliest token, -1 where the logits are not finite.

    Raises:
        ModelError: the logits are not finite.
    """
    chosen = [sampler.accept(place) for sampler, place in zip(samplers, likeliest, strict=True)]
    plain = [i for i, sampler in enumerate(samplers) if sampler.plain]
    if plain:
        temperatures = [samplers[i].sampling.temperature for i in plain]
        uniforms = [samplers[i].uniform() for i in plain]
        places = [rows[i] for i in plain], [likeliest[i] for i in plain]
        for i, token in zip(plain, draw(logits.cpu(), *places, temperatures, uniforms), strict=True):
            chosen[i] = token
    rest = [i for i, sampler in enumerate(samplers) if not (sampler.greedy or sampler.plain)]
    with on_one_thread() if rest else nullcontext():
        for i in rest:
            chosen[i] = samplers[i](logits[rows[i]].cpu())
    return chosen
