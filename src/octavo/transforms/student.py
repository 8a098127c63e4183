"""A frozen decoder seen through maps that are being learned: it shares every weight with the original.

The student is a copy of the model's modules over the same tensors. Its linear layers fold the current maps into their
weights in each forward pass and round weights and inputs, so that gradients reach the maps and nothing else. Embedding
and head stay in high precision: there the map is applied to the activations, which is the same and cheaper.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from octavo.base.errors import ModelError
from octavo.formats.microscaling import Microscaling
from octavo.transforms.activations import ScaleRule, fake_quantize
from octavo.transforms.affine import LearnedMap
from octavo.transforms.decoder import LINEARS, Decoder, Part, part_of
from octavo.transforms.fold import Maps, fold_linear
from octavo.transforms.online import Online


@dataclass(frozen=True)
class Rounding:
    """What the student rounds.

    Attributes:
        weights: format of the linear layers' weights; None leaves them.
        activations: format of their inputs; None leaves them.
        scale: rule for both formats' scales.
    """

    weights: Microscaling | None = None
    activations: Microscaling | None = None
    scale: ScaleRule = "floor"


class LearnedMaps(nn.Module):
    """The maps of a decoder while they are learned.

    Args:
        stream: T1; None for none.
        values: T2 of each layer; none if empty.
        inner: T3, which is not learned.
    """

    def __init__(self, stream: LearnedMap | None, values: Sequence[LearnedMap], inner: Online | None) -> None:
        super().__init__()
        self.stream, self.values, self.inner = stream, nn.ModuleList(values), inner

    def maps(self) -> Maps:
        """The maps as they stand, through which gradients flow."""
        values = tuple(map.affine() for map in self.values if isinstance(map, LearnedMap))
        return Maps(None if self.stream is None else self.stream.affine(), values or None, self.inner)

    def volume(self) -> Float[Tensor, ""]:
        """The sum of all maps' volume penalties."""
        return torch.stack([m.volume() for m in (self.stream, *self.values) if isinstance(m, LearnedMap)]).sum()


@dataclass(eq=False)
class _Current:
    """The maps that all layers of a student fold in: those of the present step."""

    maps: Maps = field(default_factory=Maps)


class _Linear(nn.Module):
    def __init__(
        self, part: Part, layer: nn.Linear, gain: Tensor | None, current: _Current, decoder: Decoder, rounding: Rounding
    ) -> None:
        super().__init__()
        self.part, self.current, self.decoder, self.rounding = part, current, decoder, rounding
        # The gain does not change while maps are learned.
        self.base = layer.weight.detach() if gain is None else layer.weight.detach() * gain
        self.bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, values: Tensor) -> Tensor:
        maps = self.current.maps
        weight, bias = fold_linear(self.part, self.base, self.bias, None, maps, self.decoder)
        if self.part.role == "down" and maps.inner is not None:
            values = maps.inner(values)
        if self.rounding.weights is not None:
            weight = fake_quantize(weight, self.rounding.weights, self.rounding.scale)
        if self.rounding.activations is not None:
            values = fake_quantize(values, self.rounding.activations, self.rounding.scale)
        return F.linear(values, weight, bias)


class _Embedding(nn.Module):
    def __init__(self, layer: nn.Module, current: _Current) -> None:
        super().__init__()
        self.layer, self.current = layer, current

    def forward(self, tokens: Tensor) -> Tensor:
        stream = self.current.maps.stream
        found = self.layer(tokens)
        return found if stream is None else stream(found)


class _Head(nn.Module):
    def __init__(self, layer: nn.Linear, gain: Tensor, current: _Current) -> None:
        super().__init__()
        self.layer, self.gain, self.current = layer, gain, current

    def forward(self, values: Tensor) -> Tensor:
        stream = self.current.maps.stream
        return self.layer((values if stream is None else stream.undo(values)) * self.gain)


class Student:
    """A model of the Llama family through maps.

    Args:
        model: a transformers model; left as it is.
        decoder: its sizes.
        rounding: what is rounded.

    Raises:
        ModelError: its modules are not the family's.
    """

    def __init__(self, model: nn.Module, decoder: Decoder, rounding: Rounding) -> None:
        shared = [*model.parameters(), *model.buffers()]
        self._current = _Current()
        self.model = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
        try:
            self._rebuild(decoder, rounding)
        except AttributeError as error:
            raise ModelError(f"the model's modules are not of the family ({error})", "give a Llama model") from error

    def __call__(self, tokens: Tensor, maps: Maps) -> Float[Tensor, "sequences length vocabulary"]:
        """Logits with these maps folded in."""
        self._current.maps = maps
        return self.model(input_ids=tokens, use_cache=False).logits

    def _rebuild(self, decoder: Decoder, rounding: Rounding) -> None:
        model, current = self.model, self._current
        norms = {name for name, _ in model.named_parameters() if part_of(name).role == "norm"}
        gains = {name: model.get_parameter(name).detach() for name in norms}
        for name in norms:
            ones = nn.Parameter(torch.ones_like(gains[name]), requires_grad=False)
            model.get_submodule(name.removesuffix(".weight")).weight = ones
        for layer in range(decoder.layers):
            for path in LINEARS:
                part = part_of(f"model.layers.{layer}.{path}.weight")
                old = model.get_submodule(part.module)
                if not isinstance(old, nn.Linear) or not isinstance(old.weight, Tensor):
                    raise ModelError(f"{part.module} is no dense linear layer", "give the original model")
                gain = None if part.gain is None else gains[part.gain]
                new = _Linear(part, old, gain, current, decoder, rounding)
                setattr(model.get_submodule(part.module.rpartition(".")[0]), path.rpartition(".")[2], new)
        base = model.get_submodule("model")
        base.embed_tokens = _Embedding(model.get_submodule("model.embed_tokens"), current)
        head = model.get_submodule("lm_head")
        assert isinstance(head, nn.Linear)
        model.lm_head = _Head(head, gains["model.norm.weight"], current)
