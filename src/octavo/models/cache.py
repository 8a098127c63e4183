"""A cache of keys and values that holds old tokens in octavo's formats: packed, and decoded when attention asks.

    cache = QuantizedCache(model.config, "int@4 b32")
    model.generate(**inputs, past_key_values=cache)
    cache.memory().bits

Keys are quantized per channel and values per token; see octavo.models.packed_tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from octavo.base.errors import ModelError
from octavo.models.cache_format import CacheFormat
from octavo.models.cache_layer import PackedLayer
from octavo.models.packed_tokens import PackedTokens


@dataclass(frozen=True)
class CacheMemory:
    """What a cache holds: exact bytes of all its tensors.

    Attributes:
        tokens: of each sequence.
        packed_tokens: those of them that are packed, in layers that pack.
        packed_numbers, packed_bytes: keys and values of these, and what they take, which sequences that a beam search
            parted have in common.
        recent_numbers, recent_bytes: those that are held as they came.
    """

    tokens: int
    packed_tokens: int
    packed_numbers: int
    packed_bytes: int
    recent_numbers: int
    recent_bytes: int

    @property
    def bytes(self) -> int:
        return self.packed_bytes + self.recent_bytes

    @property
    def bits(self) -> float:
        """Bits a number, all tokens together; 0 for an empty cache."""
        numbers = self.packed_numbers + self.recent_numbers
        return 8 * self.bytes / numbers if numbers else 0.0

    @property
    def packed_bits(self) -> float:
        """Bits a number of the tokens that are packed; 0 if there are none."""
        return 8 * self.packed_bytes / self.packed_numbers if self.packed_numbers else 0.0

    @property
    def bfloat16_bytes(self) -> int:
        """What a cache in bfloat16 would take."""
        return 2 * (self.packed_numbers + self.recent_numbers)


class QuantizedCache(Cache):
    """A transformers cache, to be given to `generate` or to a model's forward pass as `past_key_values`.

    Layers of sliding windows hold no old tokens and stay as transformers makes them.

    Args:
        config: the model's configuration.
        format: of old tokens, or its text.

    Raises:
        ModelError: the model keeps something else than keys and values, or has sliding windows only.
        FormatError: the text names no format of a cache.
    """

    def __init__(self, config: Any, format: CacheFormat | str) -> None:
        self.format = CacheFormat.parse(format) if isinstance(format, str) else format
        layers = [_layer(layer, self.format) for layer in DynamicCache(config=config).layers]
        if not any(isinstance(layer, PackedLayer) for layer in layers):
            raise ModelError(
                "the model's attention sees no tokens old enough to be packed", "leave out the format of the cache"
            )
        super().__init__(layers=layers)

    def memory(self) -> CacheMemory:
        """What is held now."""
        packed = [layer for layer in self.layers if isinstance(layer, PackedLayer)]
        layers = [layer for layer in self.layers if isinstance(layer, DynamicLayer)]
        recent = [x for layer in layers for x in (layer.keys, layer.values) if x is not None]
        return CacheMemory(
            tokens=self.get_seq_length(),
            packed_tokens=packed[0].packed_tokens,
            packed_numbers=sum(tokens.numel for layer in packed for pair in layer.packed for tokens in pair),
            packed_bytes=_bytes(tensor for layer in packed for tensor in layer.tensors()),
            recent_numbers=sum(x.numel() for x in recent),
            recent_bytes=_bytes(recent),
        )


def _layer(layer: Any, format: CacheFormat) -> Any:
    """What stands for a layer of a dense cache."""
    if type(layer) is DynamicLayer:
        keys = PackedTokens(format.keys, format.key_scales, format.group)
        return PackedLayer(keys, PackedTokens(format.values, "token", format.group))
    if type(layer) is DynamicSlidingWindowLayer:
        return layer
    raise ModelError(
        f"the model keeps a {type(layer).__name__}, which cannot be packed", "leave out the format of the cache"
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the memory behind tensors, each piece counted once."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
