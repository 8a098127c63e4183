"""Attention of many tokens at a time, over keys and values that heads share."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Mask = Tensor | Literal["causal"] | None
"""True where a query sees a key; "causal" where each sees as many as have come, itself included; None for all."""


def causal_mask(queries: int, keys: int, window: int | None, device: torch.device | None = None) -> Mask:
    """Which keys the last `queries` of `keys` tokens see: those up to themselves, of a window the last so many."""
    if window is None or window >= keys:
        if queries == 1:
            return None
        if queries == keys:
            return "causal"
    place = torch.arange(keys, device=device)
    own = place[keys - queries :, None]
    seen = place <= own
    return seen if window is None else seen & (place > own - window)


def attend(
    queries: Float[Tensor, "batch heads tokens width"],
    keys: Float[Tensor, "batch shared seen width"],
    values: Float[Tensor, "batch shared seen width"],
    mask: Mask,
) -> Float[Tensor, "batch tokens channels"]:
    """Softmax attention, scaled by 1/√width, every key-value head shared by heads / shared query heads.

    Args:
        queries, keys, values: rotated already.
        mask: who sees whom, [*batch, tokens, seen] where it is a tensor.
    """
    batch, heads, tokens, width = queries.shape
    share = heads // keys.shape[1]
    if share > 1:
        keys, values = keys.repeat_interleave(share, dim=1), values.repeat_interleave(share, dim=1)
    if isinstance(mask, Tensor) and mask.ndim == 3:
        mask = mask[:, None]
    if isinstance(mask, str):
        found = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    else:
        found = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return found.transpose(1, 2).reshape(batch, tokens, heads * width)
