"""Permutes a model's inner channels, which changes no prediction: the *permuted reference*.

Weights that come from a quantized file lie on that file's grid, in runs along the input axis; a format with the same
runs reproduces them exactly and looks better than it is. A random permutation of channels takes every weight off such a
grid, and nothing else about it changes: no value, no row's or column's distribution, no logit. In models of the Llama
family three kinds of channels may be permuted freely:

    residual   columns of the embedding and the head, norm gains, input columns of q, k, v, gate, up, rows of o, down
    inner      a layer's feed-forward channels: rows of gate and up, columns of down
    value      a key-value head's value channels: rows of v, and the columns of o of every query head in its group

Query and key channels may not: the rotary embedding tells them apart.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from octavo.base.errors import ModelError
from octavo.base.progress import SILENT, Progress
from octavo.checkpoints import CheckpointWriter, open_checkpoint

FAMILY = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "gemma3_text", "olmo2", "granite")

_LAYER = re.compile(r"(?:model\.)?layers\.(\d+)\.(.+)")
_OUTER = re.compile(r"(?:model\.)?(?:embed_tokens\.weight|norm\.weight)|lm_head\.weight")


@dataclass(frozen=True, eq=False)
class Permutation:
    """A permutation of each kind of channel: channel i of the new model is channel index[i] of the old.

    Attributes:
        residual: of the residual stream.
        inner: of each layer's feed-forward channels.
        value: of each layer's value channels, all key-value heads in one, each within itself.
        output: of each layer's inputs to the attention's output projection, all query heads in one.
    """

    residual: Int[Tensor, " hidden"]
    inner: tuple[Int[Tensor, " intermediate"], ...]
    value: tuple[Int[Tensor, " value"], ...]
    output: tuple[Int[Tensor, " heads"], ...]

    def apply(self, name: str, tensor: Tensor) -> Tensor:
        """The permuted tensor of that name.

        Raises:
            ModelError: the name belongs to no model of the family.
        """
        if _OUTER.fullmatch(name):
            return tensor[..., self.residual]
        if match := _LAYER.fullmatch(name):
            layer, rest = int(match[1]), match[2]
            if rest.endswith("layernorm.weight"):
                return tensor[self.residual]
            module, _, kind = rest.rpartition(".")
            axes = {
                "self_attn.q_proj": (None, self.residual),
                "self_attn.k_proj": (None, self.residual),
                "self_attn.v_proj": (self.value[layer], self.residual),
                "self_attn.o_proj": (self.residual, self.output[layer]),
                "self_attn.q_norm": (None, None),
                "self_attn.k_norm": (None, None),
                "mlp.gate_proj": (self.inner[layer], self.residual),
                "mlp.up_proj": (self.inner[layer], self.residual),
                "mlp.down_proj": (self.residual, self.inner[layer]),
            }
            if module in axes and kind in ("weight", "bias"):
                rows, columns = axes[module]
                permuted = tensor if rows is None else tensor[rows]
                return permuted if columns is None or tensor.ndim == 1 else permuted[:, columns]
        raise ModelError(f"cannot permute {name!r}", "permute models of the Llama family only")


def random_permutation(config: Mapping[str, Any], generator: torch.Generator) -> Permutation:
    """Draw a permutation for a model with this Hugging Face config.

    Raises:
        ModelError: the architecture is not of the Llama family.
    """
    if config.get("model_type") not in FAMILY:
        raise ModelError(
            f"models of type {config.get('model_type')!r} cannot be permuted", "permute models of the Llama family"
        )
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    width = config.get("head_dim") or config["hidden_size"] // heads
    residual = torch.randperm(config["hidden_size"], generator=generator)
    inner, value, output = [], [], []
    for _ in range(config["num_hidden_layers"]):
        inner.append(torch.randperm(config["intermediate_size"], generator=generator))
        within = torch.stack([torch.randperm(width, generator=generator) for _ in range(kv_heads)])
        value.append((within + width * torch.arange(kv_heads)[:, None]).flatten())
        spread = within.repeat_interleave(heads // kv_heads, dim=0)
        output.append((spread + width * torch.arange(heads)[:, None]).flatten())
    return Permutation(residual, tuple(inner), tuple(value), tuple(output))


def permute(state: Mapping[str, Tensor], config: Mapping[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
    """A state dict with randomly permuted channels, whose model has the same logits.

    Args:
        state: the weights by Hugging Face name; left as they are.
        config: the model's Hugging Face config.
        generator: draws the permutation.

    Raises:
        ModelError: the model is not of the Llama family.
    """
    permutation = random_permutation(config, generator)
    return {name: permutation.apply(name, tensor) for name, tensor in state.items()}


def write_permuted_reference(
    source: str | Path, out: str | Path, generator: torch.Generator, progress: Progress = SILENT
) -> None:
    """Write a model with permuted channels as a dense Hugging Face directory, one tensor at a time.

    Args:
        source: anything `open_checkpoint` opens, of the Llama family.
        out: the directory to make; it must not exist.
        generator: draws the permutation.

    Raises:
        ModelError: the model is not of the Llama family, or is compressed already.
        OutputError: OUT exists or cannot be written.
    """
    checkpoint = open_checkpoint(source)
    if checkpoint.quantization is not None:
        raise ModelError(f"{source} is quantized already", "give the dense model")
    state = hashlib.sha256(generator.get_state().numpy().tobytes()).hexdigest()
    permutation = random_permutation(checkpoint.config, generator)
    with CheckpointWriter(out, f"permuted {state} {checkpoint.fingerprint}", progress=progress) as writer:
        for name in progress.track(checkpoint.names, "permuting", total=len(checkpoint.names)):
            if not writer.done(name):
                writer.write(name, {"": permutation.apply(name, checkpoint.read(name))})
        writer.finish(dict(checkpoint.config), checkpoint.sidecars)
