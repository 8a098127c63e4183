"""Learning T1 and T2 of a decoder: the quantized student, seen through the maps, is brought near the original.

The loss is KL(original ‖ student) over the vocabulary, a mean over tokens, plus the volume penalty. Only the maps move.

Source: arXiv 2602.17681, sections 3 and 4. Steps, rates and the penalty's weight are ours.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from octavo.base.errors import OctavoError
from octavo.base.progress import SILENT, Progress
from octavo.transforms.affine import Family, LearnedMap
from octavo.transforms.decoder import Decoder
from octavo.transforms.hadamard import hadamard_matrix
from octavo.transforms.online import Online
from octavo.transforms.rotation import Method, random_hadamard
from octavo.transforms.student import LearnedMaps, Rounding, Student


@dataclass(frozen=True)
class Learning:
    """How maps are learned.

    Attributes:
        steps: of AdamW, at most.
        minutes: the rates fall to zero within this time, whatever `steps` says; the result then depends on the machine.
        rate: of the first step, for triangular matrices, scales and shifts.
        turn_rate: of the first step, for the free matrices of rotations.
        volume: weight of the volume penalty.
        sequences: sequences a step.
        method: how rotations are made of free matrices.
        bfloat16: the student's products in bfloat16: several times as fast on processors and GPUs that have it.
    """

    steps: int = 200
    minutes: float | None = None
    rate: float = 1e-3
    turn_rate: float = 1e-3
    volume: float = 1e-3
    sequences: int = 1
    method: Method = "cayley"
    bfloat16: bool = False


@dataclass(frozen=True)
class Learned:
    """What came of it.

    Attributes:
        maps: the maps, their parameters at rest.
        losses: KL of each step, nats per token, on that step's sequences.
        seconds: time taken.
    """

    maps: LearnedMaps
    losses: tuple[float, ...]
    seconds: float


def starting_maps(
    decoder: Decoder,
    family: Family,
    generator: torch.Generator,
    block: int | None = None,
    shifted: bool = False,
    inner: bool = True,
    method: Method = "cayley",
) -> LearnedMaps:
    """Maps of a family that are Hadamard transforms until they learn.

    Args:
        decoder: the model's sizes.
        family: of T1 and T2.
        generator: draws the signs of T1's columns.
        block: transforms in blocks of this size, T3 with them.
        shifted: whether T2 has shifts.
        inner: whether there is a T3.
        method: how rotations are made of free matrices.
    """
    stream = LearnedMap(family, random_hadamard(decoder.hidden, generator, block), method=method)
    start = hadamard_matrix(decoder.head, block).expand(decoder.kv_heads, -1, -1)
    values = [LearnedMap(family, start, shifted, method) for _ in range(decoder.layers)]
    return LearnedMaps(stream, values, Online(block) if inner else None)


def learn(
    model: nn.Module,
    decoder: Decoder,
    maps: LearnedMaps,
    sequences: Int[Tensor, "sequences length"],
    rounding: Rounding,
    generator: torch.Generator,
    learning: Learning = Learning(),
    progress: Progress = SILENT,
) -> Learned:
    """Learn `maps` in place.

    Memory: the model, its linear weights three times over, the activations of one step, and of every sequence what the
    original passes to its head.

    Args:
        model: a transformers model of the Llama family; frozen, and left as it is.
        decoder: its sizes.
        maps: where to start.
        sequences: calibration tokens.
        rounding: what the student rounds.
        generator: draws each step's sequences.
        learning: how.
        progress: told of each step.

    Raises:
        OctavoError: the loss is not finite.
        ModelError: the model's modules are not the family's.
    """
    student = Student(model, decoder, rounding)
    teacher = _Teacher(model, sequences)
    device = next(model.parameters()).device
    maps.to(device)
    turns = [p for name, p in maps.named_parameters() if name.endswith("turn")]
    others = [p for name, p in maps.named_parameters() if not name.endswith("turn")]
    groups = [{"params": turns, "lr": learning.turn_rate}, {"params": others, "lr": learning.rate}]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    first = [group["lr"] for group in optimizer.param_groups]
    losses: list[float] = []
    start = time.monotonic()
    for step in progress.track(range(learning.steps), "learning", learning.steps):
        done = step / learning.steps
        if learning.minutes is not None:
            done = max(done, (time.monotonic() - start) / (60 * learning.minutes))
        if done >= 1:
            break
        for group, rate in zip(optimizer.param_groups, first, strict=True):
            group["lr"] = rate * (1 + math.cos(math.pi * done)) / 2
        chosen = torch.randint(len(sequences), (learning.sequences,), generator=generator)
        current = maps.maps()
        with torch.autocast(device.type, torch.bfloat16, enabled=learning.bfloat16):
            found = student(sequences[chosen].to(device), current)
        divergence = _divergence(teacher.log_probabilities(chosen), found.float().log_softmax(-1))
        optimizer.zero_grad()
        (divergence + learning.volume * maps.volume()).backward()
        losses.append(float(divergence.detach()))
        if not math.isfinite(losses[-1]):
            raise OctavoError(f"learning the transforms diverged at step {step + 1}", "lower the learning rate")
        optimizer.step()
    for parameter in maps.parameters():
        parameter.requires_grad_(False)
    return Learned(maps, tuple(losses), time.monotonic() - start)


class _Teacher:
    """The original's predictions; what its head reads is computed once a sequence."""

    def __init__(self, model: Any, sequences: Tensor) -> None:
        self._model, self._sequences = model, sequences
        self._read: dict[int, Tensor] = {}

    @torch.no_grad()
    def log_probabilities(self, chosen: Tensor) -> Tensor:
        device = next(self._model.parameters()).device
        for index in chosen.tolist():
            if index not in self._read:
                row = self._sequences[index, None].to(device)
                self._read[index] = self._model.model(input_ids=row, use_cache=False).last_hidden_state[0]
        hidden = torch.stack([self._read[index] for index in chosen.tolist()])
        return self._model.lm_head(hidden).float().log_softmax(-1)


def _divergence(expected: Float[Tensor, "*tokens n"], found: Float[Tensor, "*tokens n"]) -> Float[Tensor, ""]:
    """KL of log-probabilities, nats per token."""
    return (expected.exp() * (expected - found)).sum(-1).mean()
