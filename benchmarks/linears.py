"""A model's linear layers, whose weights one format after another takes the place of."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

import octavo
from keeping import Result
from octavo.checkpoints import open_checkpoint
from octavo.compress.plan import BudgetOf
from octavo.compress.sensitivity import Sensitivity
from octavo.hub.stored import open_stored
from peers import PEERS


@dataclass(frozen=True)
class Stored:
    """What a row takes on disk.

    Attributes:
        bits: of each weight of the linear layers, all that is stored for them counted.
        nbytes: size of the safetensors files of the whole model; None where none were written.
    """

    bits: float
    nbytes: int | None = None


Row = Callable[[], Stored]
"""Quantizes the linear layers in place."""


class Linears:
    """The linear layers of a model.

    Args:
        source: the model's directory.
        model: the model, loaded.
        include: patterns of their weights' names, as `octavo.compress` takes them.
        exclude: patterns of what does not count.
        head: the name of the linear layer that is the output head, which is kept.
    """

    def __init__(self, source: Path, model: nn.Module, include: Sequence[str], exclude: Sequence[str], head: str):
        self.source, self.include, self.exclude = source, list(include), list(exclude)
        self._modules = {
            f"{name}.weight": module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name != head
        }
        self.original = {name: module.weight.detach().clone() for name, module in self._modules.items()}
        self.numel = sum(weight.numel() for weight in self.original.values())

    def put(self, name: str, values: Tensor) -> None:
        """Give a layer other weights."""
        self._modules[name].weight.data.copy_(values)

    def restore(self) -> None:
        """Give all layers their own weights."""
        for name, weight in self.original.items():
            self.put(name, weight)

    def mean_squared_inputs(self, run: Callable[[], Any]) -> dict[str, Float[Tensor, " in"]]:
        """llama.cpp's importance matrix: the mean squared input of every column while `run` runs the model."""
        sums = {name: torch.zeros(module.in_features) for name, module in self._modules.items()}
        counts = dict.fromkeys(sums, 0)

        def count(_: nn.Module, args: tuple[Tensor], name: str) -> None:
            sums[name].add_(args[0].square().flatten(0, -2).sum(0))
            counts[name] += args[0].shape[:-1].numel()

        hooks = [module.register_forward_pre_hook(partial(count, name=name)) for name, module in self._modules.items()]
        self.restore()
        with torch.inference_mode():
            run()
        for hook in hooks:
            hook.remove()
        return {name: total / counts[name] for name, total in sums.items()}

    def compressed(self, bits: float, effort: str, budget_of: BudgetOf, sensitivity: Sensitivity) -> Stored:
        """Compress to a directory, as a user would, and take its weights; the bits of all parts as stored."""
        with tempfile.TemporaryDirectory() as folder:
            result = octavo.compress(
                self.source,
                Path(folder) / "out",
                bits=bits,
                budget_of=budget_of,
                effort=effort,
                sensitivity=sensitivity,
                include=self.include,
                exclude=self.exclude,
            )
            written = open_stored(result.out)
            total = 0
            for name in written.entries:
                found = written.quantized(name)
                assert found is not None
                total += found.stored_bits
                self.put(name, found.dequantize())
        return Stored(total / self.numel, result.file_bytes)

    def peer(self, name: str, columns: Mapping[str, Tensor] | None) -> Stored:
        """Take what another library makes of each matrix; `columns` are for peers that heed an importance."""
        total = 0.0
        for tensor, weight in self.original.items():
            dequantized, bits = PEERS[name](weight, None if columns is None else columns[tensor])
            self.put(tensor, dequantized)
            total += bits * dequantized.numel()
        return Stored(total / self.numel)

    def implied_bytes(self, bits: float) -> int:
        """Bytes of the model's tensors if its linear layers take so many bits a weight and the rest stays."""
        entries = open_checkpoint(self.source).entries
        kept = sum(entry.nbytes for name, entry in entries.items() if name not in self.original)
        return kept + ceil(bits * self.numel / 8)

    def result(self, row: Row, judge: Callable[[], Result]) -> Result:
        """What a row stores, what `judge` says of the model with it, its squared error, and the seconds it took."""
        start = time.perf_counter()
        stored = row()
        seconds = time.perf_counter() - start
        wrong = sum(float((m.weight.detach() - self.original[n]).square().sum()) for n, m in self._modules.items())
        power = sum(float(weight.square().sum()) for weight in self.original.values())
        size = {"implied_bytes": self.implied_bytes(stored.bits)} if stored.nbytes is None else {"bytes": stored.nbytes}
        return {
            "bits": stored.bits,
            **size,
            **judge(),
            "relative_squared_error": wrong / power,
            "seconds": seconds,
        }
