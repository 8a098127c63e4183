"""A decoder of the Llama family that can be trained: the same network as octavo.models.decoder, as a torch module.

Its parameters have the names of Hugging Face. Every kind of layer comes from a constructor that is passed in, so that
fake-quantized matrices, other norms or other feed-forward layers are put in from one place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from octavo.layers.attention import Mask, attend, causal_mask
from octavo.layers.normalization import RMSNorm
from octavo.layers.rotary import rotate
from octavo.models.decoder_config import DecoderConfig

STANDARD_DEVIATION = 0.02
"""Of initial weights, as in GPT-2 (Radford et al., 2019, section 2.3)."""

RESIDUAL = ("o_proj.weight", "down_proj.weight")
"""Projections into the residual stream; they start smaller by the root of how many there are."""


class LinearConstructor(Protocol):
    """Makes a layer with a parameter `weight` [rows, columns], and `bias` [rows] if asked."""

    def __call__(self, columns: int, rows: int, /, *, bias: bool) -> nn.Module: ...


NormConstructor = Callable[[int, float], nn.Module]
"""From a width and an epsilon."""

FeedForwardConstructor = Callable[[DecoderConfig, LinearConstructor], nn.Module]
"""Makes a layer from the residual stream's width to the same."""


class Attention(nn.Module):
    """Causal attention with rotary positions and shared key-value heads."""

    def __init__(self, config: DecoderConfig, linear: LinearConstructor, norm: NormConstructor) -> None:
        super().__init__()
        self.width = config.rotary.width
        channels, shared = config.heads * self.width, config.shared_heads * self.width
        self.q_proj = linear(config.hidden, channels, bias=config.attention_bias)
        self.k_proj = linear(config.hidden, shared, bias=config.attention_bias)
        self.v_proj = linear(config.hidden, shared, bias=config.attention_bias)
        self.o_proj = linear(channels, config.hidden, bias=config.output_bias)
        self.q_norm = norm(self.width, config.epsilon) if config.head_norms else nn.Identity()
        self.k_norm = norm(self.width, config.epsilon) if config.head_norms else nn.Identity()

    def forward(
        self,
        inputs: Float[Tensor, "batch length hidden"],
        cosine: Float[Tensor, "length half"],
        sine: Float[Tensor, "length half"],
        mask: Mask,
    ) -> Float[Tensor, "batch length hidden"]:
        def heads(found: Tensor) -> Tensor:
            return found.unflatten(-1, (-1, self.width))

        queries = self.q_norm(heads(self.q_proj(inputs))).transpose(1, 2)
        keys = self.k_norm(heads(self.k_proj(inputs))).transpose(1, 2)
        values = heads(self.v_proj(inputs)).transpose(1, 2)
        cosine, sine = cosine.to(values.dtype), sine.to(values.dtype)
        turned = rotate(queries, cosine, sine).to(values.dtype), rotate(keys, cosine, sine).to(values.dtype)
        return self.o_proj(attend(*turned, values, mask))


class GatedFeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x)) (Shazeer, 2020, https://arxiv.org/abs/2002.05202)."""

    def __init__(self, config: DecoderConfig, linear: LinearConstructor) -> None:
        super().__init__()
        self.gate_proj = linear(config.hidden, config.inner, bias=config.inner_bias)
        self.up_proj = linear(config.hidden, config.inner, bias=config.inner_bias)
        self.down_proj = linear(config.inner, config.hidden, bias=config.inner_bias)

    def forward(self, inputs: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        return self.down_proj(F.silu(self.gate_proj(inputs)) * self.up_proj(inputs))


class Block(nn.Module):
    """Attention and a feed-forward layer, each normalized before and added to the residual stream."""

    def __init__(
        self,
        config: DecoderConfig,
        window: int | None,
        linear: LinearConstructor,
        norm: NormConstructor,
        feed_forward: FeedForwardConstructor,
    ) -> None:
        super().__init__()
        self.window = window
        self.input_layernorm = norm(config.hidden, config.epsilon)
        self.self_attn = Attention(config, linear, norm)
        self.post_attention_layernorm = norm(config.hidden, config.epsilon)
        self.mlp = feed_forward(config, linear)

    def forward(
        self,
        hidden: Float[Tensor, "batch length hidden"],
        cosine: Float[Tensor, "length half"],
        sine: Float[Tensor, "length half"],
    ) -> Float[Tensor, "batch length hidden"]:
        length = hidden.shape[1]
        mask = causal_mask(length, length, self.window, hidden.device)
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), cosine, sine, mask)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class Trunk(nn.Module):
    """All but the head; it holds what Hugging Face names `model.`."""

    def __init__(
        self,
        config: DecoderConfig,
        linear: LinearConstructor,
        norm: NormConstructor,
        feed_forward: FeedForwardConstructor,
    ) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocabulary, config.hidden)
        self.layers = nn.ModuleList(Block(config, window, linear, norm, feed_forward) for window in config.windows)
        self.norm = norm(config.hidden, config.epsilon)
        cosine, sine = config.rotary.tables(config.context)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length hidden"]:
        length = tokens.shape[1]
        cosine, sine = self.get_buffer("cosine")[:length], self.get_buffer("sine")[:length]
        hidden = self.embed_tokens(tokens)
        for layer in self.layers:
            hidden = layer(hidden, cosine, sine)
        return self.norm(hidden)


class Transformer(nn.Module):
    """The network, from tokens to logits.

    Matrices start normal with a standard deviation of 0.02, those into the residual stream divided by √(2 · layers);
    biases start at zero, and every other parameter as its constructor left it.

    Args:
        config: its sizes.
        generator: draws the initial weights; without one they are left as the constructors made them, which is for
            weights that are loaded.
        linear: makes the matrices of the blocks.
        norm: makes the norms.
        feed_forward: makes the feed-forward layers.
    """

    def __init__(
        self,
        config: DecoderConfig,
        generator: torch.Generator | None = None,
        *,
        linear: LinearConstructor = nn.Linear,
        norm: NormConstructor = RMSNorm,
        feed_forward: FeedForwardConstructor = GatedFeedForward,
    ) -> None:
        super().__init__()
        self.config = config
        # Constructors of torch draw from the global generator, which is nobody's business here.
        with torch.random.fork_rng(devices=[]):
            self.model = Trunk(config, linear, norm, feed_forward)
            self.lm_head = None if config.tied else nn.Linear(config.hidden, config.vocabulary, bias=False)
        if generator is not None:
            initialize(self, config.layers, generator)

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        """The layers, of which each can be sharded, or computed again in the backward pass, by itself."""
        return tuple(self.model.layers)

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocabulary"]:
        """Logits after every token."""
        hidden = self.model(tokens)
        if self.lm_head is None:
            return F.linear(hidden, self.model.embed_tokens.weight)
        return self.lm_head(hidden)


@torch.no_grad()
def initialize(model: nn.Module, layers: int, generator: torch.Generator) -> None:
    """Draw a model's matrices and zero its biases, in the order of its parameters."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and name.endswith("weight"):
            smaller = math.sqrt(2 * layers) if name.endswith(RESIDUAL) else 1.0
            parameter.normal_(0.0, STANDARD_DEVIATION / smaller, generator=generator)
        elif name.endswith("bias"):
            parameter.zero_()
