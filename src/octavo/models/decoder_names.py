"""What Hugging Face calls the decoder's tensors: one table, read in both directions."""

from __future__ import annotations

import re

_PARTS = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "inner_norm": "post_attention_layernorm",
    "inner.gate": "mlp.gate_proj",
    "inner.up": "mlp.up_proj",
    "inner.down": "mlp.down_proj",
}
_ENDS = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
_BACK = {theirs: ours for ours, theirs in (_PARTS | _ENDS).items()}

_OURS = re.compile(r"(?:layers\.(\d+)\.)?(.+)\.(weight|bias)")
_THEIRS = re.compile(r"(?:model\.layers\.(\d+)\.)?(.+)\.(weight|bias)")


def to_huggingface(name: str) -> str:
    """`layers.3.attention.query.weight` becomes `model.layers.3.self_attn.q_proj.weight`; KeyError if unknown."""
    match = _OURS.fullmatch(name)
    if match is None:
        raise KeyError(name)
    layer, part, kind = match.groups()
    return f"{_ENDS[part]}.{kind}" if layer is None else f"model.layers.{layer}.{_PARTS[part]}.{kind}"


def from_huggingface(name: str) -> str | None:
    """The decoder's name of a checkpoint's tensor; None if it has no such tensor."""
    match = _THEIRS.fullmatch(name)
    if match is None:
        return None
    layer, part, kind = match.groups()
    ours = _BACK.get(part)
    if ours is None or (layer is None) != (ours in _ENDS):
        return None
    return f"{ours}.{kind}" if layer is None else f"layers.{layer}.{ours}.{kind}"
