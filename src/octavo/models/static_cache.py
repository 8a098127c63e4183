"""Keys and values of several sequences in memory that is reserved once.

Keys lie in tiles of 16 tokens, channel by channel, so that one token's query meets 16 keys with every instruction and
reads memory in order; values lie token by token, their channels padded to a multiple of 16 by zeros.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from octavo.models.decoder_config import DecoderConfig

TILE = 16
"""Tokens of a tile, and channels that values come in multiples of."""


class StaticCache:
    """Keys and values of `slots` sequences of up to `context` tokens each.

    Args:
        config: of the decoder.
        slots: sequences.
        context: tokens of each.
        dtype, device: of keys and values.

    Attributes:
        keys: [layers, slots, shared heads, tiles, width, 16].
        values: [layers, slots, shared heads, 16 · tiles, padded width].
        cosine, sine: of the turn of each position, [context, width / 2].
        lengths: tokens of each slot.
    """

    def __init__(
        self,
        config: DecoderConfig,
        slots: int,
        context: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        width, tiles = config.rotary.width, -(-context // TILE)
        heads = config.layers, slots, config.shared_heads
        padded = -(-width // TILE) * TILE
        self.slots, self.context, self.width = slots, context, width
        # Not written before tokens come: pages that no token reached cost no memory.
        self.keys = torch.empty(*heads, tiles, width, TILE, dtype=dtype, device=device)
        self.values = torch.empty(*heads, tiles * TILE, padded, dtype=dtype, device=device)
        self.cosine, self.sine = (table.to(device) for table in config.rotary.tables(context))
        self.lengths = [0] * slots

    @property
    def nbytes(self) -> int:
        """Bytes that are reserved for keys and values."""
        return self.keys.nbytes + self.values.nbytes

    def write(
        self,
        layer: int,
        slot: int,
        start: int,
        keys: Float[Tensor, "shared tokens width"],
        values: Float[Tensor, "shared tokens width"],
    ) -> None:
        """Place the keys and values of tokens that follow each other, the first at position `start`."""
        stop = start + keys.shape[1]
        place = torch.arange(start, stop, device=keys.device)
        # [shared, tiles, 16, width]
        self.keys[layer, slot].transpose(2, 3)[:, place // TILE, place % TILE] = keys.to(self.keys.dtype)
        self.values[layer, slot, :, start:stop, : self.width] = values
        self.values[layer, slot, :, start:stop, self.width :] = 0

    def read(
        self, layer: int, slot: int, length: int
    ) -> tuple[Float[Tensor, "shared length width"], Float[Tensor, "shared length width"]]:
        """The keys, copied, and values of the first tokens of a slot."""
        tiles = -(-length // TILE)
        keys = self.keys[layer, slot, :, :tiles].transpose(2, 3).flatten(1, 2)
        return keys[:, :length], self.values[layer, slot, :, :length, : self.width]
