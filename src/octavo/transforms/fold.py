"""Folding maps into the weights of a decoder, one tensor at a time.

Three maps, each with its inverse on the other side:

    T1  the residual stream: e → A e + v in the embedding; W → A W in what writes to the stream (attention output,
        feed-forward down), so that v is added once; W → W A⁻¹, b → b - W A⁻¹ v in what reads it
    T2  the value channels of each key-value head: W → A W, b → A b + v in v_proj, and its inverse in the columns of
        o_proj of every query head that shares the head; exact, because attention weights sum to one
    T3  a Hadamard transform of the input of the feed-forward's last layer, computed when the model runs

First the gain of each norm goes into the readers behind it. Then the norm of A x + v is A times the norm of x only
where A is orthogonal and v zero: other maps T1 change the function, and whoever learns them must bring it back.

Everything works in the tensors' own dtype and lets gradients through: float64 to fold for good, float32 to learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from octavo.base.errors import ModelError
from octavo.transforms.affine import Affine
from octavo.transforms.decoder import READERS, Decoder, Part, part_of
from octavo.transforms.online import Online


@dataclass(frozen=True, eq=False)
class Maps:
    """What is folded into a decoder; None leaves a place as it is.

    Attributes:
        stream: T1.
        values: T2 of each layer, one map for each key-value head.
        inner: T3.
    """

    stream: Affine | None = None
    values: tuple[Affine, ...] | None = None
    inner: Online | None = None

    def to(self, dtype: torch.dtype) -> Maps:
        """The same maps in another dtype."""
        values = None if self.values is None else tuple(map.to(dtype) for map in self.values)
        return replace(self, stream=None if self.stream is None else self.stream.to(dtype), values=values)

    @property
    def shifts_values(self) -> bool:
        """Whether T2 has shifts, which give every attention projection a bias."""
        return self.values is not None and any(map.shift is not None for map in self.values)


def fold_linear(
    part: Part,
    weight: Float[Tensor, "out in_"],
    bias: Float[Tensor, " out"] | None,
    gain: Float[Tensor, " in_"] | None,
    maps: Maps,
    decoder: Decoder,
) -> tuple[Float[Tensor, "out in_"], Float[Tensor, " out"] | None]:
    """A linear layer's weight and bias with everything folded in that touches it.

    Args:
        part: which layer.
        weight, bias: the layer's own.
        gain: of the norm in front of it; None if there is none.
        maps: what to fold, in the weight's dtype.
        decoder: the model's sizes.
    """
    stream = maps.stream
    values = None if maps.values is None or part.layer is None else maps.values[part.layer]
    if gain is not None:
        weight = weight * gain
    if part.role in READERS and stream is not None:
        weight = weight @ stream.inverse
        if stream.shift is not None:
            bias = _less(bias, weight @ stream.shift)
    if part.role == "v" and values is not None:
        weight = (values.matrix @ weight.view(decoder.kv_heads, decoder.head, -1)).reshape(weight.shape)
        if bias is not None:
            bias = (values.matrix @ bias.view(decoder.kv_heads, decoder.head, 1)).flatten()
        if values.shift is not None:
            bias = values.shift.flatten() if bias is None else bias + values.shift.flatten()
    if part.role == "o" and values is not None:
        group = decoder.heads // decoder.kv_heads
        inverse = values.inverse.repeat_interleave(group, dim=0)
        weight = torch.einsum("ohi,hij->ohj", weight.unflatten(1, (decoder.heads, decoder.head)), inverse).flatten(1)
        if values.shift is not None:
            bias = _less(bias, weight @ values.shift.repeat_interleave(group, dim=0).flatten())
    if part.role == "down" and maps.inner is not None:
        # W Hᵀ: the transform of every row.
        weight = maps.inner(weight)
    if part.role in ("o", "down") and stream is not None:
        weight = stream.matrix @ weight
        bias = None if bias is None else stream.matrix @ bias
    return weight, bias


def fold_embedding(weight: Float[Tensor, "vocabulary hidden"], maps: Maps) -> Float[Tensor, "vocabulary hidden"]:
    """The embedding whose rows are in the transformed stream."""
    return weight if maps.stream is None else maps.stream(weight)


def _less(bias: Tensor | None, amount: Tensor) -> Tensor:
    return -amount if bias is None else bias - amount


def fold_tensor(name: str, state: Mapping[str, Tensor], maps: Maps, decoder: Decoder) -> dict[str, Tensor]:
    """What a tensor of the model becomes, float64: itself last, before it what it brings along; nothing for a bias.

    Norm gains become ones, the head of tied embeddings a tensor of its own, and biases appear where shifts need them.

    Args:
        name: the tensor.
        state: the model's tensors by name; only those that are needed are read.
        maps: what to fold, float64.
        decoder: the model's sizes.

    Raises:
        ModelError: the tensor has no place in the family.
    """
    part = part_of(name)
    if part.role == "norm":
        return {name: torch.ones_like(state[name], dtype=torch.float64)}
    if part.role == "other":
        return {name: state[name].double()}
    if part.role == "embedding":
        head = part_of("lm_head.weight")
        tied = decoder.tied and f"{head.module}.weight" not in state
        found = _folded(head, state[name], state, maps, decoder) if tied else {}
        return {**found, name: fold_embedding(state[name].double(), maps)}
    return {} if part.kind == "bias" else _folded(part, state[name], state, maps, decoder)


def fold(state: Mapping[str, Tensor], maps: Maps, decoder: Decoder) -> dict[str, Tensor]:
    """All tensors of the transformed model, float64; see `fold_tensor`."""
    maps = maps.to(torch.float64)
    return {made: tensor for name in state for made, tensor in fold_tensor(name, state, maps, decoder).items()}


def _folded(part: Part, weight: Tensor, state: Mapping[str, Tensor], maps: Maps, decoder: Decoder) -> dict[str, Tensor]:
    bias = state.get(f"{part.module}.bias")
    gain = None if part.gain is None else state[part.gain].double()
    bias = None if bias is None else bias.double()
    weight, bias = fold_linear(part, weight.double(), bias, gain, maps, decoder)
    if bias is None and maps.shifts_values and part.role in ("q", "k"):
        # transformers gives biases to all four projections or to none.
        bias = weight.new_zeros(len(weight))
    return {**({} if bias is None else {f"{part.module}.bias": bias}), f"{part.module}.weight": weight}


def folded_config(config: Mapping[str, object], maps: Maps, decoder: Decoder) -> dict[str, object]:
    """config.json of the transformed model: untied, with biases where shifts need them.

    Raises:
        ModelError: the model's layers take no such biases.
    """
    found = {**config, "tie_word_embeddings": False}
    if maps.stream is not None and maps.stream.shift is not None:
        raise ModelError("the head has no bias to take back a shift of the stream", "learn T1 without a shift")
    if maps.shifts_values:
        if not decoder.attention_bias:
            raise ModelError(
                f"attention of {decoder.model_type} models takes no bias after its output", "learn T2 without a shift"
            )
        found["attention_bias"] = True
    return found
