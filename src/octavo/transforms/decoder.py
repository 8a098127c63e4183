"""What folding needs to know of a decoder: its sizes, and which part each tensor's name plays.

The family is Llama's: RMSNorm before attention and feed-forward, residual additions, projections named as in
`transformers`. Others have norms elsewhere, scale the stream, or fuse projections, and are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from octavo.base.errors import ModelError

FAMILY = ("llama", "mistral", "qwen2", "qwen3", "smollm3")

Role = Literal["embedding", "norm", "q", "k", "v", "o", "gate", "up", "down", "head", "other"]

READERS: tuple[Role, ...] = ("q", "k", "v", "gate", "up", "head")
"""Linear layers whose input is the normalized stream."""

LINEARS: dict[str, Role] = {
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "o",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
}
"""Linear layers within a block, by their module's name."""

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_OUTER: dict[str, Role] = {"model.embed_tokens.weight": "embedding", "model.norm.weight": "norm"}


@dataclass(frozen=True)
class Part:
    """What a tensor is.

    Attributes:
        role: what it does.
        layer: the block it belongs to; None outside the blocks.
        module: the name of its module.
        kind: "weight" or "bias".
    """

    role: Role
    layer: int | None
    module: str
    kind: str

    @property
    def gain(self) -> str | None:
        """Name of the norm gain in front of a reader."""
        if self.role == "head":
            return "model.norm.weight"
        norm = {"q": "input", "k": "input", "v": "input", "gate": "post_attention", "up": "post_attention"}
        return f"model.layers.{self.layer}.{norm[self.role]}_layernorm.weight" if self.role in norm else None


@dataclass(frozen=True)
class Decoder:
    """A model of the Llama family.

    Attributes:
        model_type: as in config.json.
        hidden: width of the stream.
        intermediate: width of the feed-forward layers.
        layers: blocks.
        heads: query heads.
        kv_heads: key-value heads.
        head: width of a head.
        tied: whether the head is the embedding.
    """

    model_type: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    tied: bool

    @property
    def attention_bias(self) -> bool:
        """Whether all four attention projections can be given biases, by `attention_bias` in config.json."""
        return self.model_type in ("llama", "qwen3")


def decoder_of(config: Mapping[str, Any]) -> Decoder:
    """Read a Hugging Face config.

    Raises:
        ModelError: the architecture is of another family.
    """
    if config.get("model_type") not in FAMILY:
        raise ModelError(
            f"models of type {config.get('model_type')!r} cannot be transformed",
            f"choose a model of type {', '.join(FAMILY)}",
        )
    heads = config["num_attention_heads"]
    return Decoder(
        model_type=config["model_type"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head=config.get("head_dim") or config["hidden_size"] // heads,
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def part_of(name: str) -> Part:
    """What the tensor of that name is.

    Raises:
        ModelError: no model of the family has such a tensor.
    """
    if name in _OUTER:
        return Part(_OUTER[name], None, name.removesuffix(".weight"), "weight")
    if name.startswith("lm_head."):
        return Part("head", None, "lm_head", name.removeprefix("lm_head."))
    if match := _LAYER.fullmatch(name):
        layer, module, kind = int(match[1]), match[2], match[3]
        path = f"model.layers.{layer}.{module}"
        if module in LINEARS:
            return Part(LINEARS[module], layer, path, kind)
        if module in ("input_layernorm", "post_attention_layernorm") and kind == "weight":
            return Part("norm", layer, path, kind)
        if module in ("self_attn.q_norm", "self_attn.k_norm"):
            return Part("other", layer, path, kind)
    raise ModelError(f"a transform has no place for the tensor {name!r}", "transform models of the Llama family only")


def check_names(names: Iterable[str], decoder: Decoder) -> None:
    """Hold a checkpoint's names against the family.

    Raises:
        ModelError: a tensor is unknown, or one that is needed is missing.
    """
    found = {name: part_of(name) for name in names}
    needed = {"model.embed_tokens.weight", "model.norm.weight"}
    needed |= {
        f"model.layers.{i}.{module}.weight"
        for i in range(decoder.layers)
        for module in (*LINEARS, "input_layernorm", "post_attention_layernorm")
    }
    needed |= set() if decoder.tied else {"lm_head.weight"}
    if missing := sorted(needed - found.keys()):
        raise ModelError(f"the model lacks {missing[0]}", "fetch the model again")
