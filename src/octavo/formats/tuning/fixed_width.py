"""Scales and codebooks of fixed-width tensors as parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from octavo.formats import entropy_coded, fixed_width
from octavo.formats.elements.element import Element
from octavo.formats.microscaling import Microscaling
from octavo.formats.scaling import Scaling
from octavo.formats.tensor import QuantizedTensor
from octavo.formats.tuning.tunable import Deviations, looked_up, moved_values
from octavo.kernels import unpack

FINE = ("fp32", "bf16", "fp16", "u8", "s8")
"""Scale types so fine that a scale moves by less than what tuning finds; others move by their second level alone."""


@dataclass(frozen=True, eq=False)
class FixedWidthTunable:
    """A fixed-width tensor (see octavo.formats.tuning.tunable.Tunable), its codes entropy coded or not.

    Parameters: `scales`, logarithms of multiples of each scale; of scale types with coarse steps `scale`, the same of
    the second level; `codebook`, shares of the mean distance between neighbors.

    Attributes:
        quantized: the tensor as it is stored.
        device: where values are computed.
    """

    quantized: QuantizedTensor
    device: torch.device

    @property
    def sizes(self) -> Mapping[str, tuple[int, ...]]:
        parts, kind = self.quantized.parts, self._scaling.kind
        found: dict[str, tuple[int, ...]] = {}
        if kind.name in FINE:
            found["scales"] = tuple(parts["scales"].shape)
        elif kind.second_level:
            found["scale"] = tuple(parts["scale"].shape)
        if "codebook" in parts:
            found["codebook"] = tuple(parts["codebook"].shape)
        return found

    def values(self, deviations: Deviations) -> Float[Tensor, "rows columns"]:
        codes, scales, table = self._decoded
        if "codebook" in deviations:
            table = moved_values(table, deviations["codebook"])
        columns = codes.shape[1]
        for name in ("scales", "scale"):
            if name in deviations:
                scales = scales * deviations[name].exp()
        run = self._scaling.run(columns)
        spread = scales[:, :, None].expand(-1, -1, run).reshape(len(scales), -1)[:, :columns]
        return looked_up(table, codes) * spread

    def stored(self, deviations: Deviations) -> QuantizedTensor:
        parts, kind = dict(self.quantized.parts), self._scaling.kind
        deviations = {name: deviation.cpu() for name, deviation in deviations.items()}
        if "scales" in deviations:
            moved = deviations["scales"]
            level = parts.get("scale")
            wanted = kind.decode(parts["scales"], level) * moved.exp()
            limit = torch.finfo(torch.float32 if level is not None else kind.dtype).max
            encoded = kind.encode(wanted.clamp(-limit, limit), level, up=False)
            parts["scales"] = torch.where(moved == 0, parts["scales"], encoded)
        if "scale" in deviations:
            parts["scale"] = parts["scale"] * deviations["scale"].exp()
        if "codebook" in deviations:
            # Codes are ranks: no value may pass its neighbor.
            parts["codebook"] = moved_values(parts["codebook"], deviations["codebook"]).cummax(0).values
        return replace(self.quantized, parts=parts)

    @property
    def _scaling(self) -> Scaling:
        return self.quantized.format.scaling

    @cached_property
    def _decoded(
        self,
    ) -> tuple[UInt8[Tensor, "rows columns"], Float32[Tensor, "_ _"], Float32[Tensor, " levels"]]:
        """Codes, scales and table of values."""
        fixed = entropy_coded.decoded(self.quantized) if "coded" in self.quantized.parts else self.quantized
        element, parts = fixed.format.element, fixed.parts
        assert isinstance(element, Element | Microscaling)
        columns = fixed.shape[-1]
        codes = unpack(parts["codes"], element.levels, fixed.numel).view(-1, columns)
        scales = fixed_width.used_scales(self._scaling, parts)
        if isinstance(element, Microscaling):
            table = element.decode_elements(torch.arange(element.levels, dtype=torch.uint8)[None])[0]
        elif element.stored:
            table = parts["codebook"]
        else:
            table = element.codebook(self._scaling.base, self._scaling.block)
        return codes.to(self.device), scales.to(self.device), table.to(self.device)
