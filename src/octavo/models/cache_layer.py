"""One layer's keys and values, in transformers' terms: old tokens packed, recent ones as they came."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from octavo.base.errors import ModelError, about
from octavo.models.packed_tokens import PackedTokens


class PackedLayer(DynamicLayer):
    """Keys and values of all sequences of a batch.

    As soon as there are two groups of tokens that are not packed, the older one is. So at least one group and less than
    two of recent tokens stay as they came, and which tokens make a group does not depend on how many come at a time.

    Args:
        keys: how keys are packed; no tokens yet.
        values: likewise, with groups of as many tokens.

    Attributes:
        keys, values: the recent tokens, [batch, heads, tokens, channels].
        packed: keys and values of older tokens, one pair a sequence.
    """

    # Taking tokens back does not unpack a group that they completed.
    is_croppable = False

    def __init__(self, keys: PackedTokens, values: PackedTokens) -> None:
        super().__init__()
        self.empty = keys, values
        self.group = keys.group
        self.packed: list[tuple[PackedTokens, PackedTokens]] = []

    def lazy_initialization(
        self,
        key_states: Float[Tensor, "batch heads tokens key_channels"],
        value_states: Float[Tensor, "batch heads tokens value_channels"],
    ) -> None:
        """Take dtype, device and sizes from the first keys and values."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states[:, :, :0].clone(), value_states[:, :, :0].clone()
        self.packed = [self.empty] * len(key_states)
        self.is_initialized = True

    def update(
        self,
        key_states: Float[Tensor, "batch heads tokens key_channels"],
        value_states: Float[Tensor, "batch heads tokens value_channels"],
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "batch heads seen key_channels"], Float[Tensor, "batch heads seen value_channels"]]:
        """Add tokens, and return all there are: those that were packed before, dequantized, and the rest as it came.

        Raises:
            FormatError: keys or values to pack are not finite.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self.recent
        self.keys, self.values = torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)
        seen = self._seen(0), self._seen(1)
        self._pack()
        return seen

    @property
    def recent(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the tokens that are not packed."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def _seen(self, which: int) -> Tensor:
        recent, old = self.recent[which], self.packed_tokens
        if not old:
            return recent
        batch, heads, tokens, channels = recent.shape
        seen = recent.new_empty(batch, heads, old + tokens, channels)
        for row, pair in enumerate(self.packed):
            pair[which].dequantize_into(seen[row, :, :old])
        seen[:, :, old:] = recent
        return seen

    def _pack(self) -> None:
        recent_keys, recent_values = self.recent
        count = (recent_keys.shape[2] // self.group - 1) * self.group
        if count <= 0:
            return
        with about("the cache of keys and values"):
            self.packed = [
                (keys.extended(recent_keys[row, :, :count]), values.extended(recent_values[row, :, :count]))
                for row, (keys, values) in enumerate(self.packed)
            ]
        # Copied, because a view would keep what it is cut from.
        self.keys, self.values = (recent[:, :, count:].clone() for recent in self.recent)

    @property
    def packed_tokens(self) -> int:
        """How many tokens of each sequence are packed."""
        return self.packed[0][0].tokens if self.packed else 0

    def tensors(self) -> Iterator[Tensor]:
        """All that is packed; sequences that were one before a beam search parted them share theirs."""
        for pair in self.packed:
            for tokens in pair:
                yield from tokens.tensors()

    def get_seq_length(self) -> int:
        """Tokens of each sequence."""
        return self.packed_tokens + (self.recent[0].shape[2] if self.is_initialized else 0)

    def reset(self) -> None:
        """Forget everything."""
        self.keys = self.values = None
        self.packed = []
        self.is_initialized = False

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last tokens: as many as the negative number says, of those that are not packed.

        Raises:
            ModelError: some of them are packed, or the number is positive.
        """
        if not self.is_initialized or tokens_to_remove == 0:
            return
        count = self.recent[0].shape[2]
        left = count + tokens_to_remove
        if tokens_to_remove > 0 or left < 0:
            raise ModelError(
                f"a packed cache cannot be cropped by {tokens_to_remove}",
                f"take back at most its {count} recent tokens, as a negative number, or start a new cache",
            )
        self.keys, self.values = (recent[:, :, :left].clone() for recent in self.recent)

    def reorder_cache(self, beam_idx: Int[Tensor, " batch"]) -> None:
        """Replace the sequences by those of the given numbers, as a beam search does."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence."""
        self.batch_select_indices(torch.arange(len(self.packed)).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Int[Tensor, " chosen"]) -> None:
        """Keep the sequences of the given numbers, in their order."""
        if not self.is_initialized:
            return
        self.keys, self.values = (recent[indices.to(recent.device)] for recent in self.recent)
        self.packed = [self.packed[row] for row in indices.tolist()]
