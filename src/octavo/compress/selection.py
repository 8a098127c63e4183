"""Which tensors of a checkpoint are quantized, which are kept, and which the user took out of the count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

from octavo.base.errors import BudgetError, CheckpointError
from octavo.checkpoints import Checkpoint


@dataclass(frozen=True)
class Selection:
    """The tensors of a checkpoint, sorted by what happens to them.

    Attributes:
        quantized: floating-point matrices (two axes or more) that get a format.
        kept: what is copied as it is but counts: norms, biases, integer buffers.
        excluded: what the user took out; it is copied and does not count.
        shapes: shape of every tensor.
        kept_bits: bits of `kept`.
    """

    quantized: tuple[str, ...]
    kept: tuple[str, ...]
    excluded: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    kept_bits: int

    @property
    def counted(self) -> int:
        """Weights that a budget is spread over."""
        return sum(prod(self.shapes[name]) for name in (*self.quantized, *self.kept))


def select(checkpoint: Checkpoint, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Selection:
    """Sort a checkpoint's tensors.

    Args:
        checkpoint: the model.
        include: glob patterns; if there are any, a matrix that matches none is excluded.
        exclude: glob patterns of tensors to take out.

    Raises:
        BudgetError: nothing is left to quantize, or a pattern matches nothing.
        CheckpointError: the checkpoint is quantized already.
    """
    quantization = checkpoint.quantization
    # A transformed model says there what it does to activations; none of its tensors is quantized.
    if quantization is not None and quantization.get("tensors") != {}:
        method = quantization.get("quant_method", "unknown")
        raise CheckpointError(f"{checkpoint.source} is quantized already ({method})", "start from the original model")
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(name, pattern) for name in checkpoint.names):
            raise BudgetError(f"the pattern {pattern!r} matches no tensor", "see `octavo inspect` for their names")
    quantized, kept, excluded = [], [], []
    for name in checkpoint.names:
        entry = checkpoint.entry(name)
        matrix = len(entry.shape) >= 2 and entry.dtype.is_floating_point and prod(entry.shape) > 0
        if any(fnmatchcase(name, p) for p in exclude) or (
            matrix and include and not any(fnmatchcase(name, p) for p in include)
        ):
            excluded.append(name)
        elif matrix:
            quantized.append(name)
        else:
            kept.append(name)
    if not quantized:
        raise BudgetError("no tensor is left to compress", "widen --include or drop --exclude")
    return Selection(
        tuple(quantized),
        tuple(kept),
        tuple(excluded),
        {name: checkpoint.entry(name).shape for name in checkpoint.names},
        sum(8 * checkpoint.entry(name).nbytes for name in kept),
    )
