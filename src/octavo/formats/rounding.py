"""What is left of quantizing once a format's scales, codebook or grid are settled for a tensor: rounding weights."""

from __future__ import annotations

from typing import Protocol

from jaxtyping import Float, Float32
from torch import Tensor

from octavo.formats.tensor import QuantizedTensor


class Rounder(Protocol):
    """A format with everything decided but the codes; what `Format.settle` returns.

    Whoever rounds column by column, changing columns that are still to come by the errors of those before (error
    feedback), gets exactly the values that `quantize` of the changed matrix stores: the code of a weight depends on
    nothing but its own column, or run of columns.

    Attributes:
        together: how many columns are rounded at once, from a multiple of that number on; 1 for scalars.
    """

    @property
    def together(self) -> int: ...

    def round(self, columns: slice, values: Float32[Tensor, "rows run"]) -> Float32[Tensor, "rows run"]:
        """The values that these columns of the tensor would come back as."""
        ...

    def quantize(self, weights: Float[Tensor, "..."]) -> QuantizedTensor:
        """The parts that stand for a tensor of the shape that was settled."""
        ...
