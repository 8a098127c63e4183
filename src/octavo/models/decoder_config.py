"""The sizes and habits of a decoder of the Llama family, read from a Hugging Face config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from octavo.base.errors import ModelError
from octavo.layers.rotary import LinearScaling, Llama3Scaling, Rotary, Scaling, YarnScaling

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""The `model_type` of what the decoder computes; SmolLM2 calls itself llama."""

ORIGINAL = "load the model with octavo.models.load_language_model, which runs what transformers knows"
"""What else to do with a model that is refused."""


@dataclass(frozen=True)
class DecoderConfig:
    """What distinguishes one model of the family from another.

    Attributes:
        vocabulary: tokens.
        hidden: width of the residual stream.
        inner: width of the feed-forward layers.
        heads: query heads.
        shared_heads: key-value heads, a divisor of `heads`.
        context: most tokens of a sequence.
        epsilon: of the norms.
        rotary: how positions turn queries and keys; its width is a head's.
        windows: of each layer, how many tokens attention sees, itself included; None for all.
        attention_bias: whether queries, keys and values have biases.
        output_bias: whether attention's output has one.
        inner_bias: whether the feed-forward layers have them.
        head_norms: whether queries and keys are normalized head by head.
        tied: whether the embedding is the head where the checkpoint has none of its own.
    """

    vocabulary: int
    hidden: int
    inner: int
    heads: int
    shared_heads: int
    context: int
    epsilon: float
    rotary: Rotary
    windows: tuple[int | None, ...]
    attention_bias: bool
    output_bias: bool
    inner_bias: bool
    head_norms: bool
    tied: bool

    @property
    def layers(self) -> int:
        return len(self.windows)

    @classmethod
    def plain(
        cls,
        vocabulary: int,
        hidden: int,
        layers: int,
        heads: int,
        *,
        shared_heads: int | None = None,
        inner: int | None = None,
        context: int = 2048,
        theta: float = 10_000.0,
        epsilon: float = 1e-5,
        tied: bool = True,
    ) -> DecoderConfig:
        """A Llama without biases, windows or scaled positions, as models are trained from nothing.

        Args:
            shared_heads: default: as many as heads.
            inner: default: 8/3 of the hidden width, rounded up to a multiple of 32.

        Raises:
            ModelError: sizes that make no sense.
        """
        shared = heads if shared_heads is None else shared_heads
        if min(vocabulary, hidden, layers, heads, shared, context) < 1 or (inner is not None and inner < 1):
            raise ModelError("a model's sizes must be at least 1", "give larger ones")
        if hidden % (2 * heads) or heads % shared:
            raise ModelError(
                f"a width of {hidden} cannot be divided among {heads} heads that share {shared} keys and values",
                "make the width a multiple of twice the heads, and the heads a multiple of those shared",
            )
        return cls(
            vocabulary=vocabulary,
            hidden=hidden,
            inner=32 * math.ceil(hidden * 8 / 3 / 32) if inner is None else inner,
            heads=heads,
            shared_heads=shared,
            context=context,
            epsilon=epsilon,
            rotary=Rotary(hidden // heads, theta),
            windows=(None,) * layers,
            attention_bias=False,
            output_bias=False,
            inner_bias=False,
            head_norms=False,
            tied=tied,
        )

    @classmethod
    def from_huggingface(cls, config: Mapping[str, Any]) -> DecoderConfig:
        """Read config.json.

        Raises:
            ModelError: another architecture, or sizes that make no sense.
        """
        family = config.get("model_type")
        if family not in FAMILIES:
            raise ModelError(f"the decoder knows {', '.join(FAMILIES)}, and this model is {family!r}", ORIGINAL)
        if config.get("hidden_act", "silu") not in ("silu", "swish"):
            raise ModelError(f"the decoder computes silu, and this model {config['hidden_act']!r}", ORIGINAL)
        hidden, heads, layers = (
            _size(config, key) for key in ("hidden_size", "num_attention_heads", "num_hidden_layers")
        )
        shared = _size(config, "num_key_value_heads", 8 if family == "mistral" else heads)
        width = _size(config, "head_dim", 128 if family == "qwen3" else hidden // heads)
        context = _size(config, "max_position_embeddings")
        if heads % shared or width % 2:
            raise ModelError(
                f"{heads} heads of width {width} cannot share {shared} keys and values", "config.json is damaged"
            )
        epsilon = _number(config, "rms_norm_eps", 1e-6)
        return cls(
            vocabulary=_size(config, "vocab_size"),
            hidden=hidden,
            inner=_size(config, "intermediate_size"),
            heads=heads,
            shared_heads=shared,
            context=context,
            epsilon=epsilon,
            rotary=_rotary(config, width, context),
            windows=_windows(config, family, layers),
            attention_bias=family == "qwen2" or _has(config, "attention_bias", family in ("llama", "qwen3")),
            output_bias=_has(config, "attention_bias", family in ("llama", "qwen3")),
            inner_bias=_has(config, "mlp_bias", family == "llama"),
            head_norms=family == "qwen3",
            tied=bool(config.get("tie_word_embeddings", False)),
        )


def _has(config: Mapping[str, Any], key: str, known: bool) -> bool:
    """A switch that only some families look at."""
    return known and bool(config.get(key, False))


def _size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"config.json: {key} is {value!r}, not a number of at least 1", "fetch the model again")
    return value


def _number(values: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = values.get(key)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not (math.isfinite(value) and value > 0):
        raise ModelError(f"config.json: {key} is {value!r}, not a positive number", "fetch the model again")
    return float(value)


def _windows(config: Mapping[str, Any], family: str, layers: int) -> tuple[int | None, ...]:
    if family == "llama" or (family != "mistral" and not config.get("use_sliding_window", False)):
        return (None,) * layers
    # Mistral's first models, which had the window, may leave it out; later ones say null.
    if config.get("sliding_window", 4096) is None:
        return (None,) * layers
    window = _size(config, "sliding_window", 4096)
    if family == "mistral":
        return (window,) * layers
    kinds = config.get("layer_types")
    if kinds is None:
        first = config.get("max_window_layers", 28)
        kinds = ["sliding_attention" if layer >= first else "full_attention" for layer in range(layers)]
    if len(kinds) != layers or not {*kinds} <= {"sliding_attention", "full_attention"}:
        raise ModelError("config.json: layer_types does not fit the layers", "fetch the model again")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _rotary(config: Mapping[str, Any], width: int, context: int) -> Rotary:
    # transformers 5 writes rope_parameters; before, rope_theta and rope_scaling stood side by side.
    values = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    values.setdefault("rope_theta", config.get("rope_theta", 10_000.0))
    partial = values.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if partial not in (None, 1, 1.0):
        raise ModelError(f"the decoder turns all channels, and this model {partial} of them", ORIGINAL)
    kind = values.get("rope_type", values.get("type", "default"))
    original = config.get("original_max_position_embeddings") or values.get("original_max_position_embeddings")
    original = _size({"original_max_position_embeddings": original}, "original_max_position_embeddings", context)
    scaling: Scaling | None = None
    if kind == "linear":
        scaling = LinearScaling(_number(values, "factor"))
    elif kind == "llama3":
        low, high = _number(values, "low_freq_factor"), _number(values, "high_freq_factor")
        scaling = Llama3Scaling(_number(values, "factor"), low, high, original)
    elif kind == "yarn":
        scaling = _yarn(values, context, original)
    elif kind != "default":
        raise ModelError(f"the decoder does not know the rotary scaling {kind!r}", ORIGINAL)
    return Rotary(width, _number(values, "rope_theta"), scaling)


def _yarn(values: Mapping[str, Any], context: int, original: int) -> YarnScaling:
    factor = _number(values, "factor", context / original)

    def scale(multiplier: float) -> float:
        return 0.1 * multiplier * math.log(factor) + 1.0 if factor > 1 else 1.0

    attention = scale(1.0)
    if values.get("mscale") and values.get("mscale_all_dim"):
        attention = scale(_number(values, "mscale")) / scale(_number(values, "mscale_all_dim"))
    return YarnScaling(
        factor=factor,
        fast=_number(values, "beta_fast", 32.0),
        slow=_number(values, "beta_slow", 1.0),
        context=original,
        attention=_number(values, "attention_factor", attention),
        truncate=bool(values.get("truncate", True)),
    )
